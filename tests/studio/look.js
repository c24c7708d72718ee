// Gives what on a page a person could not read or reach: texts of too little contrast (WCAG 2, AA), and controls that Tab never comes to.
(() => {
  const read = (text) => {
    const numbers = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    const scale = text.startsWith('color(') ? 255 : 1;
    return {rgb: numbers.slice(0, 3).map((n) => n * scale), alpha: numbers.length > 3 ? numbers[3] : 1};
  };
  const over = (top, alpha, ground) => top.map((n, i) => n * alpha + ground[i] * (1 - alpha));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((n) => n / 255).map((n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    if (!element) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    const {rgb, alpha} = read(getComputedStyle(element).backgroundColor);
    return alpha === 1 ? rgb : over(rgb, alpha, ground(element.parentElement));
  };
  const seen = (element) => element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && element.getClientRects().length > 0;

  window.findFaint = () => {
    const faint = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const measure = (element, text, style = getComputedStyle(element)) => {
      if (!text.trim() || !seen(element) || element.closest(':disabled, [aria-disabled=true], script, style')) return;
      const back = ground(element);
      const ink = read(element.closest('svg text') ? style.fill : style.color);
      let alpha = ink.alpha;
      for (let at = element; at; at = at.parentElement) alpha *= Number(getComputedStyle(at).opacity);
      const [high, low] = [light(over(ink.rgb, alpha, back)), light(back)].sort((a, b) => b - a);
      const ratio = (high + 0.05) / (low + 0.05);
      const size = parseFloat(style.fontSize);
      const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
      window.nMeasured += 1;
      window.lowest = Math.min(window.lowest, ratio);
      if (ratio < needed) faint.set(`${element.tagName}.${element.className}: ${text.trim().slice(0, 30)}`, ratio.toFixed(2));
    };
    window.nMeasured = 0;
    window.lowest = 21;
    while (walker.nextNode()) measure(walker.currentNode.parentElement, walker.currentNode.textContent);
    for (const box of document.querySelectorAll('input:not([type=checkbox],[type=range]), textarea')) {
      measure(box, box.value);
      if (!box.value) measure(box, box.placeholder, getComputedStyle(box, '::placeholder'));
    }
    return [...faint];
  };

  window.listControls = () =>
    [...document.querySelectorAll('button, a[href], input, textarea, select, summary')].filter(
      (one) => seen(one) && !one.disabled && one.type !== 'file' && !one.closest('[aria-hidden=true]')
    );
  window.nameControl = (one) => `${one.tagName}.${one.className} ${(one.innerText || one.ariaLabel || one.value || '').trim().slice(0, 30)}`;
})();
