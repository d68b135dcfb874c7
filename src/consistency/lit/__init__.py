"""How is it run? The only floor that knows Lightning."""
