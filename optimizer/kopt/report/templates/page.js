"use strict";
// Everything here is interaction; the page says all it has to say without it.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const kopt = (window.kopt = { missing: null, opened: null });

  // Which submission is open: the last one asked for. An article that is not in the page comes from `kopt.missing`, if
  // there is one.
  let asked = 0;
  kopt.open = async (n, scroll) => {
    const mine = ++asked;
    let article = document.getElementById("s" + n);
    const said = find("#opening");
    if (said) said.textContent = "";
    if (!article && kopt.missing) {
      said.textContent = `Opening submission ${n} …`;
      const found = await kopt.missing(n).catch(() => null);
      if (mine !== asked) return;
      said.textContent = "";
      article = document.getElementById("s" + n);
      if (!article && found) find("#articles").append(article = found);
    }
    if (!article) { if (said) said.textContent = `There is no submission ${n} here.`; return; }
    for (const other of all("article.open")) other.classList.remove("open");
    article.classList.add("open");
    for (const old of all(".here")) old.classList.remove("here");
    for (const link of all(`.points a[data-n="${n}"], #r${n}`)) link.classList.add("here");
    if (kopt.opened) kopt.opened(article, n);
    if (scroll) { find("#submission").scrollIntoView(); article.focus({ preventScroll: true }); }
  };
  const wanted = () => (/^#s(\d+)$/.exec(location.hash) || [])[1];
  addEventListener("hashchange", () => { if (wanted()) kopt.open(+wanted(), true); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-n]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    hide();
    const hash = "#s" + link.dataset.n;
    if (location.hash === hash) kopt.open(+link.dataset.n, true); else location.hash = hash;
  });

  // What a point says, beside it. The words are those of its <title>.
  const tip = find("#tip");
  const hide = () => { tip.hidden = true; };
  const show = (link) => {
    const words = link.getAttribute("aria-label");
    if (!words) return hide();
    const row = document.getElementById("r" + link.dataset.n);
    tip.textContent = words.includes(": ") || !row ? words : words + ": " + row.cells[4].textContent.slice(0, 160);
    tip.hidden = false;
    const at = link.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.x + at.width / 2 - size.width / 2, root.clientWidth - size.width - 8));
    const above = at.y - size.height - 10;
    tip.style.left = left + scrollX + "px";
    tip.style.top = (above > 60 ? above : at.bottom + 10) + scrollY + "px";
  };
  for (const type of ["mouseover", "focusin"]) document.addEventListener(type, (event) => {
    const link = event.target.closest && event.target.closest("svg.field a");
    if (link) show(link); else if (!tip.hidden) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const link = event.target.closest && event.target.closest("svg.field a");
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!link || !step) return;
    event.preventDefault();
    const links = all("a", link.closest("svg.field"));
    const next = links[Math.max(0, Math.min(links.length - 1, links.indexOf(link) + step))];
    link.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });

  // A plot is one stop of the Tab key; arrow keys walk its points. Titles become labels, or a browser shows both.
  const walk = () => {
    for (const field of all("svg.field")) {
      const links = all("a", field);
      for (const link of links) {
        const title = find("title", link);
        if (title) { link.setAttribute("aria-label", title.textContent); title.remove(); }
      }
      if (links.length && !links.some((link) => link.getAttribute("tabindex") === "0")) links[links.length - 1].setAttribute("tabindex", "0");
    }
  };

  // The horizontal axis: submission, time, dollars or tool calls.
  let mode = "submission";
  const lay = () => {
    const modes = JSON.parse(find("#modes").textContent), chosen = modes[mode];
    if (!chosen) return;
    all("#chart .points .p").forEach((mark, i) => mark.setAttribute(mark.tagName === "use" ? "x" : "cx", chosen.x[i] + "%"));
    find("#chart .steps path").setAttribute("d", chosen.path);
    for (const label of all("#chart .labels > g")) {
      const place = chosen.labels[label.dataset.n];
      label.setAttribute("visibility", place ? "visible" : "hidden");
      if (!place) continue;
      const [x, shift, y] = place, leader = find("line", label), text = find("svg", label);
      for (const side of ["x1", "x2"]) leader.setAttribute(side, x + "%");
      leader.setAttribute("y1", y + 18);
      text.setAttribute("x", x + "%");
      text.setAttribute("y", y);
      find(".text", label).setAttribute("transform", `translate(${shift},0)`);
    }
    const axis = find("#chart .xaxis"), ticks = find(".ticks", axis);
    ticks.replaceChildren(...chosen.ticks.map(([at, label]) => {
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      for (const [name, value] of [["x", at + "%"], ["y", 14], ["text-anchor", "middle"]]) text.setAttribute(name, value);
      text.textContent = label;
      return text;
    }));
    const radio = find(`#chart input[value="${mode}"]`);
    if (radio) { radio.checked = true; find(".title", axis).textContent = radio.dataset.title; }
  };
  document.addEventListener("change", (event) => {
    if (event.target.name === "mode") { mode = event.target.value; lay(); }
  });

  // The table: sorted by its heads, filtered by words and status.
  const body = find("#tried-rows");
  const value = {
    n: (row) => +row.id.slice(1), score: (row) => (row.dataset.v === "" ? -1 : +row.dataset.v), cost: (row) => +row.dataset.c,
    status: (row) => row.cells[1].textContent, change: (row) => row.cells[3].textContent, note: (row) => row.cells[4].textContent,
  };
  let order = { key: "n", down: false };
  const sort = () => {
    if (!body) return;
    const get = value[order.key], sign = order.down ? -1 : 1;
    const rows = [...body.rows].map((row) => [get(row), +row.id.slice(1), row]);
    rows.sort((a, b) => (a[0] < b[0] ? -sign : a[0] > b[0] ? sign : a[1] - b[1]));
    body.replaceChildren(...rows.map((row) => row[2]));
    for (const head of all("#table th")) {
      if (head.dataset.key === order.key) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  };
  for (const head of all("#table th[data-key]")) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = order.key === head.dataset.key;
      order = { key: head.dataset.key, down: again ? !order.down : "down" in head.dataset };
      sort();
    });
  }
  const filter = () => {
    if (!body) return;
    const words = find("#search-text").value.toLowerCase().split(/\s+/).filter(Boolean), status = find("#search-status").value;
    let count = 0;
    for (const row of body.rows) {
      const text = words.length ? row.textContent.toLowerCase() : "";
      const fits = (!status || row.classList.contains(status)) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    find("#fitting").textContent = words.length || status ? `${count} of ${body.rows.length}` : "";
  };
  if (body) {
    let waiting;
    find("#search-text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
    find("#search-status").addEventListener("change", filter);
    find(".filter").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  }

  kopt.refresh = () => { walk(); if (mode !== "submission") lay(); sort(); filter(); };
  kopt.start = () => {
    walk();
    const first = wanted() || (find("article.default") || { id: "" }).id.slice(1);
    if (first) kopt.open(+first, Boolean(wanted()));
  };
  addEventListener("DOMContentLoaded", kopt.start);
})();
