"""Draws the race that README and the site's previews show: `make race` writes results/race.gif.

Four optimizers, each at its own best rate, run down the valley of nbs/course/optimizer_race: a frame for each
step, the last one held for three seconds."""
import io
from pathlib import Path
import matplotlib
import torch
matplotlib.use('agg')
import matplotlib.pyplot as plt # noqa: E402
from PIL import Image # noqa: E402
from imagenette_train.course.optimizer_race import _shares, landscapes, run_race # noqa: E402

file = Path(__file__).resolve().parent.parent/'results'/'race.gif'
colors = dict(SGD='#2f7fd1', momentum='#d0393b', RMSProp='#2e9d57', Adam='#9a5fd0')

def best_runs(valley):
    "For each optimizer its path and its distances from the minimum, from the usual start at its best rate"
    i, j = valley['across'].index(valley['start'][0]), valley['up'].index(valley['start'][1])
    best = list(_shares).index('best')
    return {name: (paths[i,j,best], far[i,j,best]) for name,(_,paths,far) in run_race(**valley).items()}

def contours(ax, valley):
    xs, ys = torch.linspace(*valley['xlim'], 120), torch.linspace(*valley['ylim'], 80)
    x, y = torch.meshgrid(xs, ys, indexing='xy')
    ax.contour(x, y, valley['f']([x, y]), levels=12, colors='0.8', linewidths=0.8)
    ax.plot(*valley['goals'][0], '+', color='0.2', ms=12, mew=2)

def frame(runs, valley, step):
    "One picture: the paths up to `step`, and how far each is from the minimum"
    fig,(a,b) = plt.subplots(1, 2, figsize=(9, 3.3), width_ratios=[3, 2])
    contours(a, valley)
    for name,(path,far) in runs.items():
        a.plot(*path[:step+1].T, '-', color=colors[name], lw=1.5)
        a.plot(*path[step], 'o', color=colors[name], ms=7)
        b.plot(far[:step+1], color=colors[name], lw=2, label=f'{name} {far[step]:.2g}')
    a.set(xlim=valley['xlim'], ylim=valley['ylim'], xticks=[], yticks=[], title=f'step {step}')
    b.set(xlim=(0, len(far)-1), ylim=(1e-6, 20), yscale='log', title='distance from the minimum')
    b.legend(loc='lower left', fontsize=8, frameon=False)
    fig.tight_layout()
    data = io.BytesIO()
    fig.savefig(data, dpi=80)
    plt.close(fig)
    return Image.open(data).convert('RGB').quantize(32)

def main():
    valley = landscapes['valley']
    runs = best_runs(valley)
    steps = len(next(iter(runs.values()))[1])
    frames = [frame(runs, valley, step) for step in range(steps)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=[120]*(steps-1) + [3000], loop=0)
    print(f'{file}: {len(frames)} frames, {file.stat().st_size//1024} KB')

if __name__ == '__main__': main()
