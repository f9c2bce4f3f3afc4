// Plays an InteractiveFigure. `root` is its element on the page, `spec` what its method `to_dict` gives.
function player(root, spec) {
  // --- numbers and state

  // what Python packed, as numbers again; NaN where there is none
  const unpack = a => {
    const bytes = atob(a.packed), q = new Int32Array(a.n)
    for (let i = 0, k = 0; k < a.n; k++) {
      let z = 0, shift = 0, byte
      do { byte = bytes.charCodeAt(i++); z |= (byte & 127) << shift; shift += 7 } while (byte > 127)
      const change = z % 2 ? -(z + 1) / 2 : z / 2
      q[k] = change + (k % a.size < a.width ? 0 : q[k - a.width])
    }
    return Float64Array.from(q, n => {
      const v = a.lo + (n - 1) / (a.levels - 1) * (a.hi - a.lo)
      return n === 0 ? NaN : a.log ? 10 ** v : v
    })
  }
  // as `format_number` in Python
  const formatNumber = v => {
    if (!Number.isFinite(v)) return 'out of range'
    if (v === 0 || Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5) return String(+v.toPrecision(3))
    return v.toExponential(1).replace('e+', 'e')
  }
  // all that ever changes: where each knob stands (`at`), and which step is shown
  const data = spec.data.map(a => ({...a, v: unpack(a)})), at = [...spec.at], steps = spec.steps
  let step = spec.begin ?? steps, timer = 0
  // an array that does not depend on a knob is 1 long there
  const begin = (a, place = at) => a.grid.reduce((i, n, k) => i * n + Math.min(place[k], n - 1), 0) * a.size
  const value = (a, place = at) => a.v[begin(a, place) + Math.min(step, a.size - 1)]
  const own = a => a.v.subarray(begin(a), begin(a) + a.size)
  const knob = name => spec.knobs.findIndex(k => k.name === name)

  // --- controls and time

  const make = (tag, attributes = {}, ...inside) => {
    const e = document.createElement(tag)
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
    e.append(...inside)
    return e
  }
  const said = root.querySelector('.said'), buttons = make('div'), sliders = make('div', {class: 'sliders'})
  const button = (text, label, act) => {
    const b = make('button', {type: 'button', 'aria-label': label, title: label}, text)
    b.addEventListener('click', act)
    buttons.append(b)
    return b
  }
  const slider = (name, last, act) => {
    const input = make('input', {type: 'range', min: 0, max: last, step: 1, 'aria-label': name})
    const number = make('output')
    input.addEventListener('input', () => act(+input.value))
    sliders.append(make('label', {}, make('span', {}, name), input, number))
    return (i, text) => {
      input.value = i
      number.textContent = text
      input.setAttribute('aria-valuetext', text)
    }
  }
  const pause = () => {
    clearInterval(timer)
    timer = 0
    said.setAttribute('aria-live', 'polite')
  }
  const go = s => { pause(); step = Math.max(0, Math.min(steps, s)); show() }
  const turn = (k, i) => { at[k] = i; show() }
  const next = () => {
    if (step >= steps || !root.isConnected) pause()
    else step++
    show()
  }
  const play = () => {
    if (timer) pause()
    else {
      if (step >= steps) step = 0
      said.setAttribute('aria-live', 'off') // a voice cannot keep up
      timer = setInterval(next, Math.max(30, Math.min(150, 6000 / steps)))
    }
    show()
  }

  // --- axes

  // a function from a number on the axis to a pixel between two ends
  const place = (axis, from, to) => {
    const f = axis.log ? Math.log10 : v => v, [lo, hi] = axis.lim.map(f)
    return v => from + (f(v) - lo) / (hi - lo) * (to - from)
  }
  const frame = (w, h) => ({left: 46, right: w - 8, top: 24, bottom: h - 36})
  const axes = (c, p, w, h) => { // a frame with numbers; gives functions from numbers to pixels
    const {left, right, top, bottom} = frame(w, h)
    const x = place(p.x, left, right), y = place(p.y, bottom, top)
    c.font = '12px sans-serif'
    c.textAlign = 'center'
    for (const [v, text] of p.x.ticks) c.fillText(text, x(v), bottom + 16)
    c.fillText(p.x.label, (left + right) / 2, h - 5)
    c.fillText(p.title, (left + right) / 2, 14)
    c.textAlign = 'right'
    for (const [v, text] of p.y.ticks) c.fillText(text, left - 5, Math.min(y(v) + 4, bottom))
    c.save(); c.translate(11, (top + bottom) / 2); c.rotate(-Math.PI / 2)
    c.textAlign = 'center'; c.fillText(p.y.label, 0, 0); c.restore()
    c.globalAlpha = 0.4; c.strokeRect(left, top, right - left, bottom - top); c.globalAlpha = 1
    c.beginPath(); c.rect(left, top, right - left, bottom - top); c.clip()
    return [x, y]
  }
  const line = (c, n, x, y) => { // n points, with a gap where a number is missing
    let pen = false
    c.beginPath()
    for (let i = 0; i < n; i++) {
      const u = x(i), v = y(i)
      if (!Number.isFinite(u + v)) { pen = false; continue }
      if (pen) c.lineTo(u, v); else c.moveTo(u, v)
      pen = true
    }
    c.stroke()
  }
  const mark = (c, name, x, y) => {
    const [colour, shape] = spec.looks[name]
    c.fillStyle = colour; c.font = '17px sans-serif'; c.textAlign = 'center'; c.textBaseline = 'middle'
    c.fillText(shape, x, y)
  }

  // --- panels

  const draw = {
    paths(c, p, x, y) {
      const lines = own(data[p.lines])
      c.globalAlpha = 0.35
      line(c, lines.length / 2, i => x(lines[2*i]), i => y(lines[2*i+1]))
      c.globalAlpha = 1
      c.textAlign = 'center'
      for (const [u, v] of p.goals) c.fillText('✛', x(u), y(v) + 4)
      for (const [name, n] of p.paths) {
        const w = own(data[n])
        c.strokeStyle = c.fillStyle = spec.looks[name][0]
        c.lineWidth = 1.5
        line(c, step + 1, i => x(w[2*i]), i => y(w[2*i+1]))
        for (let i = 0; i < step; i++) c.fillRect(x(w[2*i]) - 1.5, y(w[2*i+1]) - 1.5, 3, 3)
      }
      for (const [name, n] of p.paths) mark(c, name, x(own(data[n])[2*step]), y(own(data[n])[2*step+1]))
    },
    curves(c, p, x, y, ink, w) {
      let row = 0
      for (const [name, n] of p.curves) {
        const v = own(data[n]), now = Math.min(step, v.length - 1), X = i => x(p.xs[i]), Y = i => y(v[i])
        c.strokeStyle = spec.looks[name][0]
        c.lineWidth = 1; c.globalAlpha = 0.5; line(c, v.length, X, Y)
        c.lineWidth = 2.5; c.globalAlpha = 1; line(c, now + 1, X, Y)
        mark(c, name, X(now), Y(now))
        if (spec.rows.some(r => r.name === name)) continue
        c.font = '12px sans-serif'; c.textAlign = 'right'; c.fillText(name, w - 14, 36 + 16 * row++)
      }
      const v = own(data[p.curves[0][1]])
      for (const [name, n] of p.dots) {
        const i = Math.round(value(data[n]))
        mark(c, name, x(p.xs[i]), y(v[i]))
        c.font = '12px sans-serif'; c.fillText(name, x(p.xs[i]), y(v[i]) - 16)
      }
    },
    heat(c, p, x, y) {
      const a = data[p.far], [kx, ky] = p.knobs.map(knob), log = a.log ? Math.log10 : v => v
      const wide = x(1) - x(0), high = y(0) - y(1), here = [...at]
      for (here[kx] = 0; here[kx] < spec.knobs[kx].texts.length; here[kx]++)
        for (here[ky] = 0; here[ky] < spec.knobs[ky].texts.length; here[ky]++) {
          const share = (log(value(a, here)) - a.lo) / (a.hi - a.lo)
          if (Number.isNaN(share)) continue // blank
          c.fillStyle = p.ramp[Math.round(share * (p.ramp.length - 1))]
          c.fillRect(x(here[kx] - 0.5), y(here[ky] + 0.5), wide + 0.5, high + 0.5)
        }
      c.beginPath(); c.arc(x(at[kx]), y(at[ky]), 5, 0, 7)
      c.fillStyle = '#fff'; c.fill(); c.strokeStyle = '#000'; c.lineWidth = 2; c.stroke()
    }
  }
  const paint = ({canvas, p}) => {
    const w = canvas.clientWidth, h = canvas.clientHeight, sharp = window.devicePixelRatio || 1
    if (!w) return
    canvas.width = w * sharp
    canvas.height = h * sharp
    const c = canvas.getContext('2d')
    c.scale(sharp, sharp)
    c.fillStyle = c.strokeStyle = getComputedStyle(root).color
    const [x, y] = axes(c, p, w, h)
    draw[p.kind](c, p, x, y, c.fillStyle, w)
  }
  const nearest = (far, n) => [...Array(n).keys()].reduce((a, b) => far(b) < far(a) ? b : a)
  const pick = ({canvas, p}, e) => {
    const box = canvas.getBoundingClientRect()
    const {left, right, top, bottom} = frame(canvas.clientWidth, canvas.clientHeight)
    const x = place(p.x, left, right), y = place(p.y, bottom, top)
    const pixel = [e.clientX - box.left, e.clientY - box.top]
    p.knobs.map(knob).forEach((k, axis) => {
      const {values, texts} = spec.knobs[k], to = [x, y][axis]
      const far = i => Math.abs(to(p.kind === 'heat' ? i : values[i]) - pixel[axis])
      turn(k, nearest(far, texts.length))
    })
  }
  const panels = spec.panels.map(p => {
    const canvas = make('canvas', {role: 'img', tabindex: 0, 'aria-label': p.title + ': ' + spec.alt})
    const panel = {canvas, p}
    if (p.knobs) {
      canvas.classList.add('picks')
      canvas.addEventListener('pointerdown', e => pick(panel, e))
      canvas.addEventListener('pointermove', e => { if (e.buttons) pick(panel, e) })
    }
    return panel
  })

  // --- showing and listening

  const toggle = button('', 'play or pause', play)
  button('|◀', 'to the start', () => go(0))
  button('◀', 'one step back', () => go(step - 1))
  button('▶', 'one step on', () => go(step + 1))
  const setStep = slider(spec.step, steps, go)
  const setKnobs = spec.knobs.map((k, i) => slider(k.name, k.texts.length - 1, v => turn(i, v)))
  const cells = spec.rows.map(r => r.cells.map(() => make('td')))
  const table = make('table', {}, make('tr', {}, make('th'), ...spec.columns.map(c => make('th', {}, c))))
  spec.rows.forEach((r, i) => {
    const [colour, shape] = spec.looks[r.name]
    const sign = make('span', {style: 'color:' + colour, 'aria-hidden': true}, shape)
    table.append(make('tr', {}, make('th', {scope: 'row'}, sign, ' ' + r.name), ...cells[i]))
  })
  const show = () => {
    const texts = spec.rows.map(r => r.cells.map(n => formatNumber(value(data[n]))))
    const settings = spec.knobs.map((k, i) => k.name + ' ' + k.texts[at[i]])
    const stated = texts.map(row => row.map((text, j) => spec.columns[j] + ' ' + text).join(', '))
    const rows = spec.rows.map((r, i) => r.name + ': ' + stated[i])
    texts.forEach((row, i) => row.forEach((text, j) => { cells[i][j].textContent = text }))
    const all = [`${spec.step} ${step} of ${steps}`, ...settings]
    said.textContent = all.join(', ') + '. ' + rows.join('; ') + '.'
    setStep(step, `${step} of ${steps}`)
    setKnobs.forEach((set, i) => set(at[i], spec.knobs[i].texts[at[i]]))
    toggle.textContent = timer ? '❚❚ pause' : '▶ play'
    panels.forEach(paint)
  }
  const onKey = e => {
    const keys = {' ': play, ArrowRight: () => go(step + 1), ArrowLeft: () => go(step - 1), Home: () => go(0),
                  End: () => go(steps)}
    const press = keys[e.key], on = what => e.target.matches(what)
    const native = on('input') && e.key !== ' ' || on('button') && e.key === ' '
    if (e.ctrlKey || e.altKey || e.metaKey || !press) return
    e.stopPropagation()
    if (native) return // what a slider or a button does of itself
    e.preventDefault()
    press()
  }
  root.addEventListener('keydown', onKey)
  const repaint = () => requestAnimationFrame(() => panels.forEach(paint))
  if (window.ResizeObserver) panels.forEach(({canvas}) => new ResizeObserver(repaint).observe(canvas))
  const themed = new MutationObserver(() => { repaint(); setTimeout(repaint, 400) }) // colours may fade in
  for (const e of [document.documentElement, document.body]) themed.observe(e, {attributes: true})
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint)
  const hint = make('small', {}, 'Space plays, ← and → step, Home and End jump.')
  if (spec.panels.some(p => p.knobs)) hint.append(' Click where the pointer is a cross to choose a place.')
  const stage = make('div', {class: 'panels'}, ...panels.map(p => p.canvas))
  root.querySelector('img').replaceWith(stage, table, buttons, sliders, hint)
  said.classList.add('aloud')
  said.setAttribute('role', 'status')
  show()
}
