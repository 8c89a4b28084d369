"""Classification: `classify` calls `measurements.measure`, `verdict.judge`, then `reviews.reviewed`.

A product is one Hessian-vector product.  The zero band is the curvature that rounding could make; second
order is silent within it.  Reach, resolution and gain: the distance that counts, the smallest change of the
loss that counts, and what is left to gain within the reach (`gain`).
"""
