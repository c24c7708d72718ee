// Gives what a page itself says, not what it shows of files: every text, label, hint, placeholder and title with Latin letters in it.
window.findLatin = () => {
  const files = 'script, style, noscript, pre, code, .raw, .text, .snippet, .id, .cm-editor, article header, .proof summary';
  const found = new Set();
  const note = (element, text) => {
    if (/[A-Za-z]{2}/.test(text) && !element.closest(files)) found.add(text.trim());
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) note(walker.currentNode.parentElement, walker.currentNode.textContent);
  for (const element of document.body.querySelectorAll('*'))
    for (const name of ['placeholder', 'title', 'aria-label', 'alt'])
      if (element.hasAttribute(name)) note(element, element.getAttribute(name));
  return [...found];
};
