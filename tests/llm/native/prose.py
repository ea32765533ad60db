"""A text of our own to read to models: several kinds of writing, none of it in `calibration.py`."""

TEXT = """The ferry to the island leaves at a quarter past six, and in October that is before \
sunrise. The crew has already loaded the mail, two pallets of roof tiles and a crate of live \
hens that belong to the baker. When the engine starts, the whole deck hums, and the gulls that \
slept on the railing move to the harbour wall. The crossing takes fifty minutes in calm water. \
Nobody talks much. The teacher corrects essays, the doctor sleeps with her bag on her knees, and \
the boy who sells newspapers counts his coins twice, because yesterday one was missing.

Question: Why does bread dough rise?
Answer: Yeast eats the sugar in the flour and gives off carbon dioxide. The gas is caught in \
small bubbles, because gluten makes the dough elastic, and so the loaf grows until the heat of \
the oven kills the yeast and sets the crumb.

How to repair a flat bicycle tyre:
1. Take the wheel out of the frame and let out the rest of the air.
2. Lift one side of the tyre over the rim with two levers and pull out the tube.
3. Pump it up a little, hold it under water and look for bubbles.
4. Dry the spot, roughen it, spread the glue and wait five minutes before you press the patch on.

def overlap(first: tuple[int, int], second: tuple[int, int]) -> int:
    start = max(first[0], second[0])
    end = min(first[1], second[1])
    return max(0, end - start)

In 1911 the town had 4,210 inhabitants; by 1950 there were 9,875, and the council decided to build \
a second bridge. It cost 1.2 million and was paid for within eleven years, mostly by a toll of \
ten cents. La vieille gare est devenue un marché couvert. Im Winter riecht es dort nach Zimt und \
nassem Holz, und am Samstag spielt eine Kapelle.
"""
