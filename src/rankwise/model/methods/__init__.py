"""One module per family of methods; ``rankwise.model.adapt`` chooses among them."""
