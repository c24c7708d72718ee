// What a page does without asking the server: keys, copying, lists that go where they point, files dropped, what a form remembers.
'use strict';

const writing = (element) => element.closest('input:not([type=checkbox]), textarea, select, [contenteditable]');

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey && event.key === 'Enter' && event.target.matches('[data-send]')) {
    event.target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape' && writing(event.target)) {
    event.target.blur();
    return;
  }
  if (writing(event.target)) return;
  const wanted = [...document.querySelectorAll('[data-key]')].find((one) => one.dataset.key.toLowerCase() === event.key.toLowerCase());
  if (wanted) {
    event.preventDefault();
    wanted.click();
  }
});

// Browsers lend their clipboard to this machine's own pages and to https alone.
async function copy(text, near) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = document.createElement('textarea');
  box.value = text;
  near.after(box);
  box.select();
  document.execCommand('copy');
  box.remove();
}

document.addEventListener('click', async (event) => {
  const at = (name) => event.target.closest(`[data-${name}]`);
  if (at('copy')) {
    const button = at('copy');
    await copy(button.dataset.copy, button);
    const before = button.textContent;
    button.textContent = document.body.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
  } else if (at('toggle')) {
    const shown = document.getElementById(at('toggle').dataset.toggle);
    shown.hidden = !shown.hidden;
    if (!shown.hidden) shown.querySelector('textarea').focus();
  } else if (at('add')) {
    const box = document.getElementById(at('add').dataset.add);
    const lines = box.value.split('\n').filter(Boolean);
    if (!lines.includes(at('add').dataset.value)) box.value = [...lines, at('add').dataset.value].join('\n');
    box.dispatchEvent(new Event('input', {bubbles: true}));
  } else if (at('fill')) {
    const box = document.getElementById(at('fill').dataset.fill);
    box.value = at('fill').dataset.value;
    box.focus();
  }
});

// Says what the curves under the pointer or finger are worth; the edges of a plot are those of `templates/plot.html`.
function readCurves(event) {
  const plot = event.target.closest?.('svg[data-spans]');
  if (!plot) return;
  const [left, right, bottom, top] = plot.dataset.spans.split(' ').map(Number);
  const box = plot.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * 480;
  const distance = (point) => Math.abs(point.x - at);
  const nearest = [...plot.querySelectorAll('polyline')].map((line) => [line.dataset.name, [...line.points].reduce((a, b) => (distance(b) < distance(a) ? b : a))]);
  const {x} = nearest.map(([, point]) => point).reduce((a, b) => (distance(b) < distance(a) ? b : a));
  const value = (y) => top - ((y - 12) / 162) * (top - bottom);
  const said = nearest.filter(([, point]) => Math.abs(point.x - x) < 8).map(([name, point]) => `${name} ${value(point.y).toPrecision(3)}`);
  plot.querySelector('.grid:not([d*=H])').setAttribute('d', `M${x} 12V174`);
  plot.parentElement.querySelector('output').value = `${Math.round(left + ((x - 76) / 394) * (right - left))}: ${said.join(', ')}`;
}
document.addEventListener('pointermove', readCurves);
document.addEventListener('pointerdown', readCurves); // a finger taps

document.addEventListener('selectionchange', () => {
  const marked = document.getSelection();
  const box = document.querySelector('[data-selected]');
  if (box && !marked.isCollapsed && marked.anchorNode.parentElement.closest('.case .text')) box.value = marked.toString().trim().slice(0, box.maxLength);
});

document.addEventListener('change', (event) => {
  const box = event.target;
  if (box.matches('[data-remember]')) localStorage.setItem(`medkd-${box.dataset.remember}`, box.value);
  if (box.matches('[data-go]')) box.form.requestSubmit();
  if (box.matches('[data-submit]') && box.files.length) {
    document.querySelectorAll('[data-submit]').forEach((other) => { other.disabled = other !== box; });
    box.form.requestSubmit();
  }
  if (box.matches('[data-redraw]')) redraw(box);
});

// The server draws a form anew; what is written while it is on its way is kept. The box asks, not the form: what the form asks for
// meanwhile would take the place of its request.
function redraw(changed) {
  const form = changed.form;
  const open = [...form.querySelectorAll('details')].map((one) => one.open);
  const late = new Map();
  const isOther = /\b(teacher|judge|endpoint|base_url)s?$/.test(changed.name); // a key is for whom it was typed
  const key = isOther ? '' : form.querySelector('#key')?.value;
  let focused = document.activeElement?.id;
  form.addEventListener('input', (event) => late.set(event.target.id, event.target));
  form.addEventListener('focusin', (event) => { focused = event.target.id; });
  htmx.ajax('POST', form.getAttribute('hx-post').split('?')[0], {source: changed, target: form, swap: 'outerHTML'}).then(() => {
    document.querySelectorAll('#order-form details').forEach((one, number) => { one.open = open[number] ?? false; });
    const box = document.getElementById('key');
    if (box && key) box.value = key; // the server never sends it back
    for (const [id, written] of late) {
      const box = document.getElementById(id);
      if (!box || box === written) continue;
      box.value = written.value;
      box.checked = written.checked;
      box.dispatchEvent(new Event('input', {bubbles: true}));
    }
    document.getElementById(focused)?.focus();
  });
}

document.addEventListener('submit', (event) => {
  const button = event.submitter;
  if (button?.dataset.busy) button.textContent = button.dataset.busy;
  button?.setAttribute('aria-busy', 'true');
});

document.addEventListener('htmx:after:request', (event) => {
  document.querySelectorAll('[aria-busy]').forEach((one) => one.removeAttribute('aria-busy'));
  const form = event.target.closest?.('#ask');
  if (!form) return;
  const button = form.querySelector('[data-busy]');
  button.textContent = button.dataset.said;
  if (event.detail.ctx.response?.status === 200) form.querySelector('#question').value = '';
});

for (const zone of document.querySelectorAll('[data-drop]')) {
  zone.addEventListener('dragover', (event) => { event.preventDefault(); zone.classList.add('over'); });
  zone.addEventListener('dragleave', () => zone.classList.remove('over'));
  zone.addEventListener('drop', (event) => {
    event.preventDefault();
    const box = zone.querySelector('input[type=file]');
    box.files = event.dataTransfer.files;
    box.dispatchEvent(new Event('change', {bubbles: true}));
  });
}

for (const box of document.querySelectorAll('[data-remember]')) {
  const known = localStorage.getItem(`medkd-${box.dataset.remember}`);
  if (known && !box.value) {
    box.value = known;
    box.form.requestSubmit();
  }
}

document.querySelector('nav [aria-current]')?.scrollIntoView({inline: 'center', block: 'nearest'});
for (const button of document.querySelectorAll('[data-busy]')) button.dataset.said = button.textContent;
for (const box of document.querySelectorAll('[data-copy-of]')) {
  const source = document.querySelector(`[name=${box.dataset.copyOf}]:not([data-copy-of])`);
  box.form.addEventListener('submit', () => { box.value = source.value; });
}
