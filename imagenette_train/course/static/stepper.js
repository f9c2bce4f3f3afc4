// Plays a BatchStepper. `root` is its element on the page, `spec` what its method `to_dict` gives.
function stepper(root, spec) {
  const rows = [...root.querySelectorAll('tbody tr')], said = root.querySelector('.said')
  let name = spec.first, step = 0, timer = 0 // all that ever changes
  const trace = () => spec.traces[name]
  const bar = document.createElement('div')
  const button = (text, label, act) => {
    const b = document.createElement('button')
    Object.assign(b, {type: 'button', textContent: text, title: label, onclick: act})
    b.setAttribute('aria-label', label)
    bar.append(b)
    return b
  }
  const pause = () => { clearInterval(timer); timer = 0 }
  const go = s => { pause(); step = Math.max(0, Math.min(trace().length - 1, s)); show() }
  const play = () => {
    if (timer) { pause(); return show() }
    if (step >= trace().length - 1) step = 0
    timer = setInterval(() => {
      if (step >= trace().length - 1 || !root.isConnected) pause()
      else step++
      show()
    }, 700)
    show()
  }
  // another trace, which is the same up to this line
  const branch = to => { pause(); name = to; step = Math.min(step, trace().length - 1); show(); toggle.focus() }
  const toggle = button('', 'play or pause', play)
  button('|◀', 'to the first line', () => go(0))
  button('◀', 'one line back', () => go(step - 1))
  button('▶', 'one line on', () => go(step + 1))
  const cancel = button('cancel here', 'a callback raises CancelBatchException at this event',
                        () => branch('cancel in ' + trace()[step].event))
  const poison = button('NaN here', 'the loss becomes NaN', () => branch('NaN'))
  const guard = button('NaN here, watched', 'the loss becomes NaN, and TerminateOnNaNCallback listens',
                       () => branch('NaN, watched'))
  const usual = button('as usual', 'nothing happens', () => branch(spec.first))
  function show() {
    rows.forEach(r => { r.className = ''; [...r.cells].slice(1).forEach(c => { c.textContent = '' }) })
    trace().slice(0, step + 1).forEach(o => {
      const cells = rows[o.line].cells
      rows[o.line].className = 'done'
      ;[o.note, ...o.values].forEach((text, i) => { cells[i + 1].textContent = text })
    })
    const now = trace()[step], values = spec.columns.map((c, i) => c + ' ' + now.values[i])
    rows[now.line].className = 'now'
    said.textContent = `${name}, step ${step + 1} of ${trace().length}: ${now.text}` +
      (now.note ? ` (${now.note})` : '') + `. ${values.join(', ')}.`
    toggle.textContent = timer ? '❚❚ pause' : '▶ play'
    const plain = name === spec.first
    cancel.disabled = !(plain && spec.traces['cancel in ' + now.event])
    poison.disabled = guard.disabled = !(plain && now.event === 'after_loss')
    usual.disabled = plain
  }
  root.addEventListener('keydown', e => {
    const keys = {ArrowRight: () => go(step + 1), ArrowLeft: () => go(step - 1), Home: () => go(0),
                  End: () => go(trace().length - 1)}
    if (e.ctrlKey || e.altKey || e.metaKey || !keys[e.key]) return
    e.stopPropagation()
    e.preventDefault()
    keys[e.key]()
  })
  root.querySelector('table').after(bar)
  said.setAttribute('role', 'status')
  show()
}
