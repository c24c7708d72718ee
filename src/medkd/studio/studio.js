// Keys of the review queue, and the page's language. No text of a record passes through here.
document.documentElement.lang = location.pathname.split('/')[1] || 'en';
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
