"""A rank's part of the MimoModel: sizes, layers, weights and random streams that do not depend on the layout."""
