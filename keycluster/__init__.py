"""Keycluster: a self-hosted key management service. What applications import from here is its public face."""
