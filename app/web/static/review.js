// The desk's keyboard, the live comparison of editor and answer, and the draft that is kept while one types.
(() => {
  "use strict";

  const KEYS = { a: "approve", c: "correct", r: "reject", u: "unsafe", s: "skip", z: "undo" };
  const MOST = 4_000_000; // cells of a comparison; beyond that the middle is shown as replaced
  const find = (id) => document.getElementById(id);
  const editor = () => document.querySelector("#editor textarea");

  // comparing

  /** [["same" | "del" | "ins", text], ...] that turn the words of `before` into those of `after`. */
  function compare(before, after) {
    const old = before.match(/\s+|[^\s]+/g) || [];
    const now = after.match(/\s+|[^\s]+/g) || [];
    let head = 0;
    while (head < old.length && head < now.length && old[head] === now[head]) head++;
    let tail = 0;
    while (
      tail < Math.min(old.length, now.length) - head &&
      old[old.length - 1 - tail] === now[now.length - 1 - tail]
    ) tail++;
    return [
      ["same", old.slice(0, head).join("")],
      ...compareMiddle(old.slice(head, old.length - tail), now.slice(head, now.length - tail)),
      ["same", old.slice(old.length - tail).join("")],
    ];
  }

  /** By the longest common subsequence of words. */
  function compareMiddle(old, now) {
    if (old.length * now.length > MOST) return [["del", old.join("")], ["ins", now.join("")]];
    const width = now.length + 1;
    const common = new Uint16Array((old.length + 1) * width);
    for (let i = old.length - 1; i >= 0; i--)
      for (let j = now.length - 1; j >= 0; j--)
        common[i * width + j] =
          old[i] === now[j]
            ? common[(i + 1) * width + j + 1] + 1
            : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    const parts = [];
    let i = 0, j = 0, gone = "", come = "";
    const flush = () => {
      if (gone) parts.push(["del", gone]);
      if (come) parts.push(["ins", come]);
      gone = come = "";
    };
    while (i < old.length || j < now.length) {
      if (i < old.length && j < now.length && old[i] === now[j]) {
        // A space between two changes belongs to both: "the red" -> "a blue" is one change, not two.
        if (gone && come && !old[i].trim() && old[i + 1] !== now[j + 1]) (gone += old[i]), (come += old[i]);
        else flush(), parts.push(["same", old[i]]);
        i++, j++;
      } else if (j === now.length || (i < old.length && common[(i + 1) * width + j] >= common[i * width + j + 1]))
        gone += old[i++];
      else come += now[j++];
    }
    flush();
    return parts;
  }

  function show(parts) {
    const nodes = parts.filter(([, text]) => text).map(([kind, text]) => {
      if (kind === "same") return document.createTextNode(text);
      const node = document.createElement(kind);
      node.textContent = text;
      return node;
    });
    const changed = parts.some(([kind, text]) => kind !== "same" && text.trim());
    find("diff").replaceChildren(...(changed ? nodes : ["None yet: the text is the answer as it was given."]));
  }

  let compared = "";
  function keepComparing() {
    const shown = find("shown");
    if (shown && editor() && find("diff")) {
      const pair = JSON.stringify([shown.dataset.answer, editor().value]);
      if (pair !== compared || !find("diff").hasChildNodes()) show(compare(shown.dataset.answer, editor().value));
      compared = pair;
    }
  }
  // The page sets the editor's text without an event, so it is looked at instead.
  setInterval(keepComparing, 100);

  // keeping the draft

  let unkept = null;
  function keepNow() {
    if (unkept !== null) {
      clearTimeout(unkept);
      unkept = null;
      find("keep")?.click();
    }
  }
  document.addEventListener("input", (event) => {
    if (event.target !== editor()) return;
    keepComparing();
    clearTimeout(unkept);
    unkept = setTimeout(keepNow, 600);
  });
  document.addEventListener("focusout", (event) => event.target === editor() && keepNow());
  document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && keepNow());

  // the keyboard

  let judged = null; // the answer that a key has judged, until another one is shown
  function press(id) {
    const button = find(id);
    const turn = find("shown")?.dataset.turn ?? "";
    if (!button || button.disabled || button.offsetParent === null) return;
    if (id !== "undo" && judged?.turn === turn && performance.now() - judged.at < 1000) return;
    judged = { turn: id === "undo" ? null : turn, at: performance.now() };
    button.click();
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable=true]");
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey;
    const alt = event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (event.repeat || event.isComposing) return;
    // With Alt some systems type another character: then the place of the key says which it is.
    const key = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code.slice(3).toLowerCase();
    if (event.key === "Escape" && event.target === editor()) {
      editor().blur();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === editor()) {
      press("correct");
    } else if ((plain && !typing) || alt) {
      if (key === "e" && editor()) editor().focus();
      else if (key in KEYS) press(KEYS[key]);
      else return;
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);

  // the queue of a narrow page folds away

  document.addEventListener("click", (event) => {
    const fold = find("fold");
    const chosen = event.target.closest?.("#places button");
    if (!fold || !(event.target === fold || chosen)) return;
    const open = event.target === fold && fold.getAttribute("aria-expanded") !== "true";
    fold.setAttribute("aria-expanded", String(open));
    fold.textContent = open ? "Hide the queue" : "Show the queue";
    find("queue").classList.toggle("open", open);
  });
})();
