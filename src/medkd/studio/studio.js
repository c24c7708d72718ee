// Keys of the review queue, and the page's language. No text of a record passes through here.
const pageLanguage = location.pathname.split('/')[1] || 'en';
document.documentElement.lang = pageLanguage;
// The framework speaks the browser's language, and in parts English whatever that is: here it speaks the page's. FRAMEWORK is what it says to ours.
Object.defineProperty(navigator, 'language', {get: () => ({zh: 'zh-CN'})[pageLanguage] ?? pageLanguage});
const TOLD = '.sr-only[role=status], .toast-title-row span, [data-testid=toast-text]';
const say = (text) => {
  const known = Object.keys(FRAMEWORK).find((begin) => text?.startsWith(begin));
  return known && FRAMEWORK[known] + text.slice(known.length);
};
const translate = (element) => {
  for (const name of ['aria-label', 'title']) {
    const said = say(element.getAttribute(name));
    if (said) element.setAttribute(name, said);
  }
  if (element.matches(TOLD) && !element.children.length) {
    const said = say(element.textContent);
    if (said) element.textContent = said;
  }
};
new MutationObserver((changes) => {
  for (const {target, addedNodes} of changes)
    for (const node of [target, ...addedNodes]) {
      const element = node instanceof Element ? node : node.parentElement;
      if (!element) continue;
      translate(element);
      if (node !== target) element.querySelectorAll('[aria-label], [title], ' + TOLD).forEach(translate);
    }
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['aria-label', 'title']});
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  if (typing) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  const button = document.querySelector(`button.key-${CSS.escape(event.key.toLowerCase())}, .key-${CSS.escape(event.key.toLowerCase())} button`);
  if (button) {
    event.preventDefault();
    button.click();
  }
});
