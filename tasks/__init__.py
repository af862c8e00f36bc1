"""The rooms of the house: one folder per stage, in the order the data walks through them."""
