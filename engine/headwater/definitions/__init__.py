"""What users write: frozen data about streams, entities, views and services."""
