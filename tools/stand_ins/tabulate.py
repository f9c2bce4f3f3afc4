"Stands in for tabulate where it is not installed: plain tables in Markdown, whatever format is asked for."

def tabulate(rows, headers=(), floatfmt='g', **kwargs):
    rows = list(rows)
    if headers == 'keys':
        headers = list(rows[0]) if rows else []
        rows = [list(r.values()) for r in rows]
    said = lambda o: '' if o is None else format(o, floatfmt) if isinstance(o, float) else str(o)
    lines = [[said(o) for o in r] for r in ([headers] if headers else []) + rows]
    if not lines: return ''
    widths = [max(len(l[i]) for l in lines if i < len(l)) for i in range(max(map(len, lines)))]
    text = ['| ' + ' | '.join(c.ljust(w) for c,w in zip(l, widths)) + ' |' for l in lines]
    if headers: text.insert(1, '|' + '|'.join('-'*(w+2) for w in widths) + '|')
    return '\n'.join(text)
