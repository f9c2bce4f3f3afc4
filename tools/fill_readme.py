"Fills the README's tables from the raw results, so that none of its figures is typed."
import re
from pathlib import Path
from imagenette_train.baseline import compare_table, load_results

root = Path(__file__).resolve().parent.parent

def block(profile):
    "What stands in the README for a profile: a line about the conditions, and the table"
    found = load_results(root/'results'/profile)
    s, env = found[0]['settings'], found[0]['environment']
    p = s['profile']
    return (f"`{p['name']}`: {p['arch']}, {p['size']} px, batches of {p['bs']}, {p['n_epoch']} epochs, {s['data']['n_train']} pictures to train on and "
            f"{s['data']['n_valid']} to validate ({s['data']['copy']}), {found[0]['precision']}, {env['device_name']}, torch {env['torch']}, {env['date'][:10]}.\n\n{compare_table(found)}")

def main():
    path = root/'README.md'
    text = path.read_text(encoding='utf-8')
    for profile in re.findall(r'<!-- table (\S+) -->', text):
        text = re.sub(rf'(<!-- table {profile} -->\n).*?(<!-- end -->)', lambda m: f'{m[1]}{block(profile)}\n{m[2]}', text, flags=re.S)
    path.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
