const rows = [];
document.getElementById("add").onclick = () => {
  const selection = getSelection();
  const text = selection.toString().trim();
  const place = selection.anchorNode && selection.anchorNode.parentElement.closest("[data-case]");
  if (!text || !place) return;
  rows.push({missed: text, kind: document.getElementById("kind").value, case: place.dataset.case});
  document.getElementById("said").textContent = rows.length + " missed, last: " + text;
};
document.getElementById("save").onclick = () => {
  const read = [...document.querySelectorAll("[data-case]")].filter(case_ => case_.querySelector(".read").checked);
  const all = [...rows, ...read.map(case_ => ({read: case_.dataset.case}))];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([all.map(row => JSON.stringify(row) + "\n").join("")]));
  link.download = "review.jsonl";
  link.click();
};
