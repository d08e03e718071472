"""Tables of text with aligned columns."""


def table(title, header, rows, left=2):
    """Prints rows of text; the first `left` columns are aligned to the left."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(
            zip(row, widths, strict=True))]  # fmt: skip
        print("  " + "  ".join(cells).rstrip())


def without_empty_columns(header, rows):
    """The header and rows, less the columns in which no row has anything."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
