"""How fast is it, and is head slower than base?"""
