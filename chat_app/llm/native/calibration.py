"""Texts that show a model's usual inputs, for finding the scales of its 8-bit form."""

TEXTS = (
    "The library opens at nine. Most people who come before ten want to read the newspaper, "
    "and they sit in the same chairs every day. In winter the heating takes an hour to warm "
    "the large room, so the librarian makes tea and puts the kettle on the counter, where it "
    "fogs the window. Nobody has ever complained about the fog.",
    "Question: A train leaves at 14:05 and arrives at 17:50. How long is the journey? Answer: "
    "From 14:05 to 17:05 are three hours, and 45 minutes more make 17:50, so the journey takes "
    "3 h 45 min, which is 225 minutes. At 96 km/h that is a distance of 360 km.",
    "def median(values: list[float]) -> float:\n"
    '    """The middle of the sorted values."""\n'
    "    ordered = sorted(values)\n"
    "    half = len(ordered) // 2\n"
    "    if len(ordered) % 2:\n"
    "        return ordered[half]\n"
    "    return (ordered[half - 1] + ordered[half]) / 2\n",
    "Sehr geehrte Frau Wagner, vielen Dank für Ihre Anfrage vom 3. Mai. Das Zimmer mit Blick "
    "auf den See ist in der ersten Juniwoche noch frei; es kostet 84 Euro für die Nacht, mit "
    "Frühstück. El tren sale a las ocho de la mañana y llega antes del mediodía. Le musée est "
    "fermé le mardi, mais le jardin reste ouvert toute l'année.",
    "# Shopping list\n\n- 2 kg potatoes\n- 500 g butter (unsalted)\n- 1 lemon\n\n| day | meal |\n"
    "|---|---|\n| Monday | soup |\n| Tuesday | rice & beans |\n\n**Note:** the market closes at "
    '13:00! See https://example.org/market?day=1 or write to "info@example.org".',
    "Plants make sugar from carbon dioxide and water, with light as the source of energy. The "
    "green pigment absorbs red and blue light best. Oxygen is a by-product; without it the "
    "atmosphere would be very different, and so would every animal that breathes it. 光合作用 "
    "は植物が光を使う過程です。Фотосинтез происходит в листьях.",
)
