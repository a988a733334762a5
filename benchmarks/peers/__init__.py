"""Other implementations, imported from checkouts that the user names; none of their code is kept here."""
