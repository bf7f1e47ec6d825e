// On a server: submissions are asked for one by one, and the page follows the run.
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const base = document.body.dataset.base;
  const parsed = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  };
  kopt.missing = async (n) => {
    const answer = await fetch(`${base}/${n}/article`);
    return answer.ok ? parsed(await answer.text()).firstElementChild : null;
  };

  const sign = find("#live");
  const say = (words, look) => { sign.textContent = words; sign.className = "live " + look; };

  // Opened parts stay open, and what has the keyboard's focus keeps it: by the submission that it leads to.
  const swap = (id, html) => {
    const place = document.getElementById(id);
    if (!place) return;
    const open = new Map([...place.querySelectorAll("details")].map((part) => [part.firstElementChild.textContent.slice(0, 12), part.open]));
    const focused = place.contains(document.activeElement) && document.activeElement.dataset.n;
    place.innerHTML = html;
    for (const part of place.querySelectorAll("details")) {
      const was = open.get(part.firstElementChild.textContent.slice(0, 12));
      if (was !== undefined) part.open = was;
    }
    if (focused) { const link = find(`a[data-n="${focused}"]`, place); if (link) link.focus({ preventScroll: true }); }
  };

  const take = async (update) => {
    if (update.reload) return location.reload();
    const body = find("#tried-rows");
    if (!body && update.rows.trim()) return location.reload();
    for (const [id, html] of Object.entries(update.parts)) swap(id, html);
    const holder = document.createElement("tbody");
    holder.innerHTML = update.rows;
    for (const row of [...holder.rows]) {
      const old = document.getElementById(row.id);
      if (old) old.replaceWith(row); else body.append(row);
    }
    kopt.refresh();
    say(update.live ? "live" : "at rest", update.live ? "" : "rests");
    const open = find("article.open");
    if (open && update.changed.includes(+open.id.slice(1))) {
      const fresh = await kopt.missing(+open.id.slice(1));
      if (fresh && open.isConnected) { fresh.classList.toggle("open", open.classList.contains("open")); open.replaceWith(fresh); }
    }
  };

  const stream = new EventSource(`${base}/events?since=${document.body.dataset.seq}`);
  let taken = Promise.resolve();  // one after the other: an article asked for later must not be replaced by an older one
  stream.onmessage = (event) => { taken = taken.then(() => take(JSON.parse(event.data))).catch(reportError); };
  stream.onerror = () => say("not connected", "lost");
  addEventListener("pagehide", () => stream.close());
})();
