"""The demo: a year of real flights, all the way round, every value compared."""
