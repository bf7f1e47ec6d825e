// Submissions and sources that are stored compressed, and differences between any two of them.
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const opened = new Map();
  const unpack = (block) => {
    if (!opened.has(block.id)) opened.set(block.id, (async () => {
      const bytes = Uint8Array.from(atob(block.textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })());
    return opened.get(block.id);
  };

  kopt.missing = async (n) => {
    for (const block of document.querySelectorAll('script[id^="articles-"]')) {
      if (+block.dataset.first > n || +block.dataset.last < n) continue;
      const html = (await unpack(block))[n];
      if (!html) continue;
      const holder = document.createElement("template");
      holder.innerHTML = html;
      return holder.content.firstElementChild;
    }
    return brief(n);
  };

  // What the table says of a submission that is not kept in full.
  const brief = (n) => {
    const template = document.getElementById("brief"), row = document.getElementById("r" + n);
    if (!template || !row) return null;
    const article = template.content.firstElementChild.cloneNode(true);
    article.id = "s" + n;
    const [, status, score, change, note] = [...row.cells].map((cell) => cell.textContent);
    const words = { n, status, score, note, change: change && `Change to its parent: ${change}` };
    for (const slot of article.querySelectorAll("[data-slot]")) {
      const name = slot.dataset.slot;
      if (name in words) slot.textContent = words[name];
      // A cell says it itself where a score is of another kind than the run's.
      else if (name === "evidence") { if (!score || find("small:not(.new)", row.cells[2])) slot.remove(); }
      else if (name === "source") slot.dataset.source = n;
      else if (row.dataset.p) slot.dataset.diff = row.dataset.p;
    }
    return article;
  };

  const numbers = (store, n) => store.of[n] || [];

  kopt.opened = async (article, n) => {
    const block = document.getElementById("sources");
    if (!block) return;
    for (const place of article.querySelectorAll("[data-source]:empty")) {
      const store = await unpack(block), lines = numbers(store, n);
      place.innerHTML = '<div class="code" tabindex="0" role="region"><pre class="lines" aria-hidden="true"></pre><pre class="python"></pre></div>';
      find(".code", place).setAttribute("aria-label", `Source of submission ${n}`);
      find(".lines", place).textContent = lines.map((_, i) => i + 1).join("\n");
      find(".python", place).innerHTML = lines.map((id) => store.lines[id]).join("\n");
    }
    for (const place of article.querySelectorAll("[data-diff]:empty")) {
      const store = await unpack(block), other = place.dataset.diff;
      const parts = difference(numbers(store, other), numbers(store, n));
      const count = (sign) => parts.filter((part) => part[0] === sign).length;
      const details = document.createElement("details"), summary = document.createElement("summary"), pre = document.createElement("pre");
      summary.textContent = `Change to #${other}, the one it came from: ` + (parts.length ? `+${count("ins")} −${count("del")} lines` : "same source");
      pre.className = "diff";
      pre.tabIndex = 0;
      for (const [tag, id] of parts.slice(0, 600)) {
        const line = document.createElement(tag);
        if (tag === "b") line.textContent = `line ${id}`; else line.innerHTML = store.lines[id];
        pre.append(line);
      }
      details.append(summary, ...(parts.length ? [pre] : []));
      place.replaceChildren(details);  // opened twice at once, it is still one
    }
  };

  // Myers' shortest edit script, as in kopt/report/differences.py; far apart, all of one replaces all of the other.
  function difference(a, b) {
    const context = 3, most = 250;
    let start = 0, end = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start++;
    while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
    const x = a.slice(start, a.length - end), y = b.slice(start, b.length - end);
    if (!x.length && !y.length) return [];
    const whole = [
      ...a.slice(Math.max(0, start - context), start).map((id) => ["s", id]), ...edits(x, y, most),
      ...a.slice(a.length - end, a.length - end + context).map((id) => ["s", id]),
    ];
    const near = whole.map((_, i) => whole.slice(Math.max(0, i - context), i + context + 1).some((part) => part[0] !== "s"));
    const parts = [];
    let line = Math.max(0, start - context);
    whole.forEach((part, i) => {
      if (near[i] && !near[i - 1]) parts.push(["b", line + 1]);
      if (near[i]) parts.push(part);
      if (part[0] !== "ins") line++;
    });
    return parts;
  }
  function edits(x, y, most) {
    const rewritten = () => [...x.map((id) => ["del", id]), ...y.map((id) => ["ins", id])];
    if (!x.length || !y.length) return rewritten();
    const far = { 1: 0 }, trace = [];
    for (let d = 0; d <= Math.min(most, x.length + y.length); d++) {
      trace.push({ ...far });
      for (let k = -d; k <= d; k += 2) {
        const down = k === -d || (k !== d && far[k - 1] < far[k + 1]);
        let i = down ? far[k + 1] : far[k - 1] + 1;
        while (i < x.length && i - k < y.length && x[i] === y[i - k]) i++;
        far[k] = i;
        if (i >= x.length && i - k >= y.length) return back(trace, x, y);
      }
    }
    return rewritten();
  }
  function back(trace, x, y) {
    const parts = [];
    let i = x.length, j = y.length;
    for (let d = trace.length - 1; d >= 0; d--) {
      const far = trace[d], k = i - j, down = k === -d || (k !== d && far[k - 1] < far[k + 1]);
      const before = down ? k + 1 : k - 1, pi = d ? far[before] : 0, pj = d ? pi - before : 0;
      while (i > pi && j > pj) { i--; j--; parts.push(["s", x[i]]); }
      if (d) { parts.push(down ? ["ins", y[pj]] : ["del", x[pi]]); i = pi; j = pj; }
    }
    return parts.reverse();
  }
})();
