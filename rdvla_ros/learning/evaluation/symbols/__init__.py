"""`rdvla study symbols`: the head follows trails that are given as symbols instead of pictures; a bench for recipes.

What it shows: whether the recurrent head, trained in one way or another, makes one hop per iteration, stops when it has arrived,
and goes on beyond the trails it was trained on. What it leaves out: seeing.
"""
