"""The generated interface takhin.v1. `make proto` writes it; never edit it by hand."""
