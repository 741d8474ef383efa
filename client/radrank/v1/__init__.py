"""Generated from proto/radrank/v1 by `make stubs`; do not edit the modules here."""
