// Gives the controls of a page that a person sees, and their names.
(() => {
  const seen = (element) => element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && element.getClientRects().length > 0;

  window.listControls = () =>
    [...document.querySelectorAll('button, a[href], input, textarea, select, summary')].filter(
      (one) => seen(one) && !one.disabled && one.type !== 'file' && !one.closest('[aria-hidden=true]')
    );
  window.nameControl = (one) => `${one.tagName}.${one.className} ${(one.innerText || one.ariaLabel || one.value || '').trim().slice(0, 30)}`;
})();
