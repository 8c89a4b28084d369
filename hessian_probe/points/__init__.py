"""Classification: `classify` runs `pipeline`, `second_order` labels, `reviews` confirm or amend that."""
