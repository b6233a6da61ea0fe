"""The program that owns a store while it runs: grouped commits, and the front ends."""
