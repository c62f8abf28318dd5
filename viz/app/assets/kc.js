/* What must answer at once happens here: which edges are shown, what is in focus, the link.
   The server sends a scene (viz/screen/scene.py) once; a slider only cuts pieces in and out. */
(function () {
  "use strict";
  const dc = (window.dash_clientside = window.dash_clientside || {});
  const SKIP = () => dc.no_update;
  const DIM = 0.14;
  const QUICK_ABOVE = 400;
  const LEAST_LABEL = 6;
  const WANTED_BOX = 15;
  const LETTER = 0.92;  // capitals are three quarters as high as a letter's size says
  const INK = "#1F2933";
  const CAPITAL = 0.75;  // as much of a letter's size must fit between a box's lines
  const OFF_LINE = { type: "path", layer: "below", name: "off",
    line: { color: "#B8C1CB", width: 1, dash: "1px,3px" } };
  let timer = null;

  function later(work) {
    clearTimeout(timer);
    timer = setTimeout(work, 220);
  }

  function format(number) {
    return Number(number).toLocaleString("en-US");
  }

  function thresholdOf(scene, position) {
    if (!position) return 0;
    const largest = Math.max(...scene.edges.size, 1e-12);
    return largest * Math.pow(10, -3 * (1 - position / 100));
  }

  function short(number) {
    if (!number) return "0";
    return Math.abs(number) >= 1000 || Math.abs(number) < 0.001
      ? number.toExponential(1)
      : String(Number(number.toPrecision(3)));
  }

  /* Which edges are shown: the first n in order of appearance that pass every filter. */
  function visibleEdges(scene, view) {
    const edges = scene.edges, nodes = scene.nodes;
    /* A box passes where one of its nodes does. */
    const some = (own, all, test) => own.map(
      (value, node) => (scene.boxes[node] ? scene.boxes[node][all] : [value]).some(test));
    const inLayers = some(nodes.layer, "layers", (layer) => layer === null || !view.layers ||
      (layer >= view.layers[0] && layer <= view.layers[1]));
    const ofRole = some(nodes.role, "roles",
      (role) => !view.role.length || view.role.includes(role));
    const ofKind = some(nodes.kind, "kinds",
      (kind) => !view.kind.length || view.kind.includes(kind));
    const pinned = view.only ? new Set(view.groups.flatMap((group) => group[1])) : null;
    return edges.order.map((place, edge) => {
      const a = edges.tail[edge], b = edges.head[edge];
      return place < view.n && edges.size[edge] >= view.t &&
        !view.hide.includes(edges.class[edge]) && inLayers[a] && inLayers[b] &&
        (ofRole[a] || ofRole[b]) && (ofKind[a] || ofKind[b]) &&
        (!pinned || pinned.has(nodes.name[a]) || pinned.has(nodes.name[b]) ||
          scene.boxes[a] || scene.boxes[b]);
    });
  }

  /* Which edges are in focus: those of the selection, else of what the search finds. */
  function focusOf(scene, view, shown) {
    const edges = scene.edges, names = scene.nodes.name;
    const chosen = view.node ? [names.indexOf(view.node)] : [];
    if (view.edge) return edges.name.map((name, edge) => shown[edge] && name === view.edge);
    const query = (view.q || "").trim().toLowerCase();
    if (!chosen.length && query) {
      if (query.includes("->"))
        return edges.name.map((name, e) => shown[e] && name.toLowerCase().includes(query));
      const exact = names.findIndex((name) => name.toLowerCase() === query);
      names.forEach((name, index) => {
        if (exact >= 0 ? index === exact : name.toLowerCase().includes(query)) chosen.push(index);
      });
    }
    if (!chosen.length) return null;
    const set = new Set(chosen);
    return edges.tail.map((a, edge) => shown[edge] && (set.has(a) || set.has(edges.head[edge])));
  }

  /* Where many layers leave a box no height, it takes more of the room up to its neighbours. */
  function stretches(scene) {
    const up = scale(scene).up, tall = heightOf(scene), nodes = scene.nodes;
    if (!scene.room) scene.room = nodes.x.map((x, i) => Math.min(...nodes.y.map((y, j) =>
      (i === j || Math.abs(x - nodes.x[j]) > 0.76 && nodes.layer[j] !== null ? 9
        : Math.abs(y - nodes.y[i])))));
    return scene.room.map((room) =>
      Math.max(1, Math.min(WANTED_BOX / (tall * up), (0.9 * room) / tall, 2.4)));
  }

  function boxes(scene, members) {
    const x = [], y = [], nodes = scene.nodes, all = stretches(scene);
    for (const member of members) {
      const middle = nodes.y[member], by = all[member];
      for (const point of nodes.box[member]) {
        x.push(point[0]); y.push(middle + by * (point[1] - middle));
      }
      x.push(null); y.push(null);
    }
    return { x: x, y: y };
  }

  function outline(scene, members, colour, width, dash) {
    return Object.assign(boxes(scene, members), {
      type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false,
      line: { color: colour, width: width, dash: dash || "solid" },
    });
  }

  /* The nodes of a box, or the node itself; the edges of a line, or the edge itself. */
  function membersOf(scene, node) {
    return scene.boxes[node] ? scene.boxes[node].members : [scene.nodes.name[node]];
  }

  function edgesOf(scene, line) {
    return scene.bundles[line] || [scene.edges.name[line]];
  }

  /* What a selection means to a model: the nodes of a box, the edges of a line. */
  function meantBy(scene, name) {
    const node = scene.nodes.name.indexOf(name), line = scene.edges.name.indexOf(name);
    return node >= 0 ? membersOf(scene, node) : line >= 0 ? edgesOf(scene, line) : [name];
  }

  /* A card behind the box of a group, of which two sides are seen, and its name above. */
  function cards(scene, members) {
    const by = scale(scene), x = [], y = [], all = stretches(scene), nodes = scene.nodes;
    for (const i of members) {
      const xs = nodes.box[i].map((point) => point[0]);
      const ys = nodes.box[i].map((point) => nodes.y[i] + all[i] * (point[1] - nodes.y[i]));
      const [left, right] = [Math.min(...xs), Math.max(...xs)];
      const [low, high] = [Math.min(...ys), Math.max(...ys)];
      for (const step of [2.5, 5]) {
        const across = step / by.across, up = step / by.up;
        x.push(left + across, left + across, right + across, right + across, right, null);
        y.push(low, low - up, low - up, high - up, high - up, null);
      }
    }
    return { type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, x: x, y: y,
      line: { color: INK, width: 1.2, simplify: false } };
  }

  function nameplates(scene, members) {
    const all = stretches(scene), tall = heightOf(scene), nodes = scene.nodes;
    const [low, high] = [Math.min(...nodes.x), Math.max(...nodes.x)];
    const side = (x) => (x > high - 0.25 * (high - low) ? "right"
      : x < low + 0.25 * (high - low) ? "left" : "center");
    const end = { right: Math.max, left: Math.min };
    return members.map((i) => ({
      x: end[side(nodes.x[i])]
        ? end[side(nodes.x[i])](...nodes.box[i].map((point) => point[0])) : nodes.x[i],
      y: nodes.y[i] + (all[i] * tall) / 2, yshift: 2, yanchor: "bottom",
      xanchor: side(nodes.x[i]), showarrow: false, bgcolor: "rgba(255,255,255,0.88)", borderpad: 1,
      font: { size: 11, color: INK },
      text: "<b>" + escapeText(nodes.name[i].replace(/^group /, "")) + "</b> ×" +
        scene.boxes[i].members.length,
    }));
  }

  function figureOf(scene, view) {
    const edges = scene.edges, nodes = scene.nodes, names = nodes.name;
    const shown = visibleEdges(scene, view);
    const focus = focusOf(scene, view, shown);
    const off = new Set(view.off || []);
    const nodeOff = names.map((_, node) => membersOf(scene, node).every((each) => off.has(each)));
    const isOff = edges.name.map((_, edge) => nodeOff[edges.tail[edge]] ||
      edgesOf(scene, edge).every((each) => off.has(each)));
    const touched = names.map((name, node) => name === "input" || name === "logits" ||
      name === view.node || nodeOff[node]);
    const close = names.map(() => false);
    const plainPaths = scene.lines.map(() => []), litPaths = scene.lines.map(() => []);
    const cut = [];
    let count = 0;
    for (let edge = 0; edge < shown.length; edge++) {
      if (!shown[edge]) continue;
      count += edgesOf(scene, edge).length;
      touched[edges.tail[edge]] = touched[edges.head[edge]] = true;
      if (isOff[edge]) { cut.push(edges.path[edge]); continue; }
      const lit = focus && focus[edge];
      (lit ? litPaths : plainPaths)[edges.group[edge]].push(edges.path[edge]);
      if (lit) close[edges.tail[edge]] = close[edges.head[edge]] = true;
    }
    const data = [], sizes = labelSizes(scene);
    const all = names.map((_, index) => index).filter((index) => touched[index]);
    scene.figure.data.forEach((trace) => {
      const part = trace.meta.part, key = trace.meta.key;
      if (part === "boxes") {
        const members = all.filter((i) => nodes.style[i] === key);
        const lit = members.filter((i) => !focus || close[i] || names[i] === view.node);
        const far = members.filter((i) => !lit.includes(i));
        data.push(Object.assign({}, trace, boxes(scene, lit)));
        if (far.length) data.push(Object.assign({}, trace, boxes(scene, far), { opacity: 0.45 }));
      } else if (part === "labels") {
        const members = all.filter((i) => nodes.text[i] === key && sizes[i]);
        data.push(Object.assign({}, trace, {
          x: members.map((i) => nodes.x[i]), y: members.map((i) => nodes.y[i]),
          text: members.map((i) => nodes.label[i]),
          textfont: Object.assign({}, trace.textfont, { size: members.map((i) => sizes[i]) }) }));
      } else if (part === "nodes") {
        data.push(Object.assign({}, trace, {
          x: all.map((i) => nodes.x[i]), y: all.map((i) => nodes.y[i]),
          text: all.map((i) => nodes.title[i]), customdata: all.map((i) => names[i]) }));
      } else if (part === "handles") {
        const x = [], y = [], text = [], custom = [];
        for (let edge = 0; edge < shown.length && !view.quick; edge++) {
          if (!shown[edge]) continue;
          const xs = edges.x[edge], ys = edges.y[edge];
          for (let i = 0; i < xs.length; i++) {
            x.push(xs[i]); y.push(ys[i]);
            text.push(edges.title[edge]); custom.push(edges.name[edge]);
          }
          x.push(null); y.push(null); text.push(""); custom.push("");
        }
        data.push(Object.assign({}, trace, { x: x, y: y, text: text, customdata: custom }));
      }
    });
    const rings = [];
    (view.groups || []).forEach((group) => {
      const members = group[1].map((name) => names.indexOf(name)).filter((i) => i >= 0 && touched[i]);
      if (!members.length) return;
      rings.push(outline(scene, members, INK, 2.2));
      const top = members.reduce((best, i) => (nodes.y[i] > nodes.y[best] ? i : best), members[0]);
      rings.push({ type: "scatter", mode: "text", hoverinfo: "skip", showlegend: false,
        x: [nodes.x[top]], y: [nodes.y[top] + 0.3], text: ["<b>" + escapeText(group[0]) + "</b>"],
        textfont: { size: 11, color: INK } });
    });
    if (view.node && names.includes(view.node))
      rings.push(outline(scene, [names.indexOf(view.node)], INK, 2.6));
    const collapsed = all.filter((i) => scene.boxes[i]);
    if (collapsed.length) rings.push(cards(scene, collapsed));
    if (off.size) {
      const members = all.filter((i) => nodeOff[i]);
      rings.push({ type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false,
        x: members.map((i) => nodes.x[i]), y: members.map((i) => nodes.y[i]),
        marker: { symbol: "x-thin", size: 20, line: { width: 2.4, color: "#B3261E" } } });
    }
    const last = data.splice(-2);
    const layout = Object.assign({}, scene.figure.layout, {
      shapes: shapesOf(scene, plainPaths, litPaths, cut, touched, Boolean(focus)),
      annotations: scene.figure.layout.annotations.concat(nameplates(scene, collapsed)) });
    delete layout.height;
    const plot = plotOf(), near = plot && plot.kcScene === scene && plot.kcRange;
    if (near) ["xaxis", "yaxis"].forEach((name) => {
      layout[name] = Object.assign({}, layout[name], { range: near[name].slice() });
    });
    return { figure: { data: data.concat(rings, last), layout: layout }, shown: shown,
      count: count, size: sum(sizes) };
  }

  /* Pixels of one unit of the layout, across and up, at the zoom that the picture has. */
  function scale(scene) {
    const plot = plotOf(), pane = document.getElementById("picture"), own = scene.figure.layout;
    const known = plot && plot.kcScene === scene && plot._fullLayout;
    const range = (name) => (known && known[name] && known[name].range) || own[name].range;
    const [xs, ys] = [range("xaxis"), range("yaxis")];
    const size = (pixels, usual) => (pixels > 60 ? pixels : usual) - 16;
    return {
      across: size(pane ? pane.clientWidth : 0, 800) / Math.abs(xs[1] - xs[0]),
      up: size(pane ? pane.clientHeight : 0, 620) / Math.abs(ys[1] - ys[0]),
    };
  }

  function sum(values) {
    return values.reduce((all, each) => all + each, 0);
  }

  function heightOf(scene) {
    const box = scene.nodes.box[0].map((point) => point[1]);
    return Math.max(...box) - Math.min(...box);
  }

  /* For each node the largest of the usual sizes at which its label stays within its box, at the
     zoom that the picture has; 0 where nobody could read it. */
  function labelSizes(scene) {
    const pixels = scale(scene), tall = heightOf(scene);
    const longest = Math.max(...scene.nodes.label.map((label) =>
      (label === "input" || label === "logits" ? 0 : label.length)));
    const widest = Math.min(12, (0.68 * pixels.across) / (0.6 * Math.max(longest, 3)));
    return stretches(scene).map((by) => {
      const box = tall * pixels.up * by, size = Math.min(widest, LETTER * box);
      if (size >= LEAST_LABEL) return size;
      return widest >= LEAST_LABEL && CAPITAL * LEAST_LABEL < box ? LEAST_LABEL : 0;
    });
  }

  function plotOf() {
    return document.querySelector("#picture .js-plotly-plot");
  }

  /* Labels grow and shrink with the zoom: `again` draws at the sizes of now, `size` is their sum as
     drawn. The picture may come to the page after this is asked for. */
  function follow(scene, size, again, tries) {
    const plot = plotOf();
    if (!plot || !plot.on) {
      if (tries > 0) setTimeout(() => follow(scene, size, again, tries - 1), 200);
      return;
    }
    if (plot.kcScene !== scene) plot.kcRange = null;
    plot.kcScene = scene;
    plot.kcSize = size;
    plot.kcDraw = function () {
      const now = sum(labelSizes(scene));
      if (Math.abs(now - plot.kcSize) < 1) return;
      plot.kcSize = now;
      again();
    };
    plot.kcDraw();
    if (plot.kcFollowed) return;
    plot.kcFollowed = true;
    plot.on("plotly_relayout", function () {
      const full = plot._fullLayout;
      plot.kcRange = { xaxis: full.xaxis.range.slice(), yaxis: full.yaxis.range.slice() };
      plot.kcDraw();
    });
    plot.on("plotly_doubleclick", () => zoom(0));
  }

  function zoom(by) {
    const plot = plotOf();
    if (!plot || !plot._fullLayout || !window.Plotly) return;
    const scene = plot.kcScene || window.kcScene, change = {};
    ["xaxis", "yaxis"].forEach((name) => {
      const whole = scene.figure.layout[name].range, now = plot._fullLayout[name].range;
      if (!by) { change[name + ".range"] = whole.slice(); return; }
      const middle = (now[0] + now[1]) / 2, half = (now[1] - now[0]) / 2 / by;
      change[name + ".range"] = [middle - half, middle + half];
    });
    window.Plotly.relayout(plot, change);
  }

  /* What Enter in the search means: the node or edge of that name, else the first that holds it. */
  function found(scene, text) {
    const query = text.trim().toLowerCase();
    if (!query) return null;
    const pick = (names) => {
      const lower = names.map((name) => name.toLowerCase());
      for (const test of [(n) => n === query, (n) => n.startsWith(query), (n) => n.includes(query)]) {
        const place = lower.findIndex(test);
        if (place >= 0) return names[place];
      }
      return null;
    };
    const edges = scene.edges.name.slice().reverse();  // the strongest first
    if (query.includes("->")) { const edge = pick(edges); return edge && { edge: edge }; }
    const node = pick(scene.nodes.name);
    return node && { node: node };
  }

  /* Lines from weak to strong; those in focus lie over all others. */
  function shapesOf(scene, plainPaths, litPaths, cut, touched, focused) {
    const shapes = scene.stripes.slice();
    const add = (line, paths, more) => {
      if (paths.length) shapes.push(Object.assign({}, line, { path: paths.join("") }, more));
    };
    const ends = scene.shared.ends;
    add(scene.shared.line, scene.shared.path.filter(
      (_, i) => touched[ends[i][0]] && touched[ends[i][1]]), focused ? { opacity: DIM } : {});
    scene.lines.forEach((line, i) => add(line, plainPaths[i], focused ? { opacity: DIM } : {}));
    scene.lines.forEach((line, i) => add(line, litPaths[i], {
      line: Object.assign({}, line.line, { width: line.line.width + 0.5 }) }));
    add(OFF_LINE, cut);
    return shapes;
  }

  function escapeText(text) {
    const codes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "$": "&#36;" };
    return String(text).replace(/[&<>"$]/g, (char) => codes[char]);
  }

  /* The link that reproduces this view: the page's own query with the controls' values in it. */
  function remember(changes) {
    const query = new URLSearchParams(window.location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === "" ||
          (Array.isArray(value) && !value.length)) query.delete(name);
      else query.set(name, Array.isArray(value) ? value.join("~") : String(value));
    }
    const parts = Array.from(query.entries()).map(([name, value]) =>
      name + "=" + encodeURIComponent(value).replace(/%7E/g, "~").replace(/%3A/g, ":")
        .replace(/%3B/g, ";").replace(/%2C/g, ","));
    const text = parts.length ? "?" + parts.join("&") : "";
    if (text !== window.location.search)
      window.history.replaceState(window.history.state, "", window.location.pathname + text);
  }

  function groupsText(groups) {
    return groups.map((group) => group[0].replace(/[:;~]/g, " ") + ":" + group[1].join("~"))
      .join(";");
  }

  /* The groups that are collapsed, where the one of this name, if any, changes sides. */
  function collapsedOf(groups, boxes, name) {
    const shut = new Set(boxes.map((box) => box[0]));
    if (name !== null && !shut.delete(name)) shut.add(name);
    return groups.filter((group) => shut.has(group[0]));
  }

  /* The group of the selected node, or of the selected box; else the only one there is. */
  function chosenGroup(now, scene) {
    const at = scene.nodes.name.indexOf(now.node);
    if (at >= 0 && scene.boxes[at]) return scene.boxes[at].name;
    const found = now.groups.find((group) => group[1].includes(now.node)) ||
      (now.groups.length === 1 ? now.groups[0] : null);
    return found && found[0];
  }

  /* What static pages (viz/page) draw with as well. */
  window.kcScene = { figureOf: figureOf, thresholdOf: thresholdOf, short: short };

  dc.kc = {
    draw: function (
        scene, n, position, selected, q, role, kind, layers, hide, groups, only, off, collapsed) {
      if (!scene || !scene.edges) return [SKIP(), SKIP(), SKIP()];
      const sel = selected || {};
      const bounds = scene.layer_bounds;
      const whole = !layers || (layers[0] <= bounds[0] && layers[1] >= bounds[1]);
      const shownClasses = hide || [];
      const view = {
        n: n || scene.default_n, t: thresholdOf(scene, position), node: sel.node || "",
        edge: sel.edge || "", q: q || "", role: role || [], kind: kind || [],
        layers: whole ? null : layers,
        hide: scene.classes.filter((name) => !shownClasses.includes(name)),
        groups: groups || [], only: (only || []).length > 0, off: off || [],
      };
      // While a slider moves over many edges, the pointer finds none: that comes when it rests.
      const cause = dc.callback_context.triggered.map((each) => each.prop_id).join();
      view.quick = /^(n|t|layers)\.value$/.test(cause) && view.n > QUICK_ABOVE;
      const meant = found(scene, view.q);
      if (/search\.value/.test(cause) && view.q.trim() && (view.node || view.edge) &&
          !(meant && meant.node === sel.node && meant.edge === sel.edge)) {
        view.node = view.edge = "";  // what is typed is looked for, whatever was chosen before
        dc.set_props("selected", { data: {} });
      }
      const made = figureOf(scene, view);
      window.kcShown = made.count;
      window.kcScene = scene;
      window.kcGroups = { groups: view.groups, boxes: collapsed || [], node: view.node };
      later(function () {
        follow(scene, made.size,
          () => dc.set_props("picture", { figure: figureOf(scene, view).figure }), 100);
        if (view.quick) {
          view.quick = false;
          dc.set_props("picture", { figure: figureOf(scene, view).figure });
        }
        const rows = [];
        const drawn = [];
        const size = scene.edges.size;  // of a line that stands for many edges, of their sum
        made.shown.map((_, i) => made.shown.length - 1 - i).filter((i) => made.shown[i])
          .sort((a, b) => size[b] - size[a])
          .forEach((i) => { rows.push(scene.rows[i]); drawn.push(...edgesOf(scene, i)); });
        dc.set_props("edges-table", { rowData: rows });
        dc.set_props("shown-edges", { data: drawn });
        dc.set_props("shown-boxes", { data: collapsed || [] });
        remember({
          n: view.n === scene.default_n ? null : view.n,
          t: view.t ? Number(view.t.toPrecision(4)) : null,
          node: view.node, edge: view.edge, q: view.q, role: view.role, kind: view.kind,
          layers: view.layers ? view.layers.join("-") : null, hide: view.hide,
          groups: groupsText(view.groups), off: view.off, go: null,
          collapsed: (collapsed || []).map((box) => box[0]),
        });
      });
      const total = scene.total;
      return [
        made.figure,
        format(made.count) + " of " + format(total) + " edges",
        "\u2265 " + short(view.t),
      ];
    },

    select: function (click, edgeRows, nodeRows, previous) {
      const context = dc.callback_context;
      const cause = context.triggered.length ? context.triggered[0].prop_id : "";
      let name = null;
      if (cause.startsWith("picture") && click && click.points.length)
        name = click.points[0].customdata;
      else if (cause.startsWith("edges-table") && edgeRows && edgeRows.length)
        name = edgeRows[0].edge;
      else if (cause.startsWith("nodes-table") && nodeRows && nodeRows.length)
        name = nodeRows[0].node;
      if (typeof name !== "string") return SKIP();
      const next = name.includes("->") ? { edge: name } : { node: name };
      if (previous && previous.node === next.node && previous.edge === next.edge) return SKIP();
      return next;
    },

    clear: function (clicks) { return clicks ? {} : SKIP(); },

    tables: function (which) {
      return ["tab-body" + (which === "nodes" ? " away" : ""),
              "tab-body" + (which === "nodes" ? "" : " away")];
    },

    /* A component that has just come to the page calls as well: then nothing has changed. */
    noise: function (value, now) {
      const query = new URLSearchParams(window.location.search);
      const wanted = value && value.length ? "on" : "off";
      if (!now || now.noise === wanted) return SKIP();
      query.set("noise", wanted);
      query.delete("hide");
      return "?" + query.toString();
    },

    find_results: function (text, options) {
      remember({ q: text });
      return Object.assign({}, options, { quickFilterText: text || "" });
    },

    pin: function (clicks, removed, title, selected, groups) {
      const context = dc.callback_context;
      if (!context.triggered.length || !context.triggered[0].value) return SKIP();
      const list = (groups || []).map((group) => [group[0], group[1].slice()]);
      const id = context.triggered_id;
      if (id && id.type === "unpin") {
        list.splice(id.index, 1);
        return list;
      }
      const node = selected && selected.node;
      if (!node) return SKIP();
      const name = (title || "").trim().slice(0, 40).replace(/[:;~]/g, " ") || "group 1";
      const found = list.find((group) => group[0] === name);
      if (!found) list.push([name, [node]]);
      else if (!found[1].includes(node)) found[1].push(node);
      else found[1] = found[1].filter((each) => each !== node);
      return list.filter((group) => group[1].length);
    },

    /* Which groups are drawn as one box: a click on a group's button changes that of this one. */
    collapse: function (clicks, groups, boxes) {
      const context = dc.callback_context, id = context.triggered_id;
      const click = context.triggered.length && context.triggered[0].value;
      const all = groups || [], old = boxes || [];
      const name = !click || !id || id.type !== "collapse" ? null
        : typeof id.index === "string" ? id.index : (all[id.index] || [null])[0];
      const next = collapsedOf(all, old, name);
      return JSON.stringify(next) === JSON.stringify(old) ? SKIP() : next;
    },

    toggle_off: function (clicks, clear, mode, click, selected, off) {
      const context = dc.callback_context;
      const cause = context.triggered.length ? context.triggered[0].prop_id : "";
      if (cause.startsWith("off-clear")) return [];
      let name = null;
      if (cause.startsWith("picture")) {
        if (!(mode || []).length || !click || !click.points.length) return SKIP();
        name = click.points[0].customdata;
      } else if (clicks && selected) name = selected.node || selected.edge;
      if (typeof name !== "string" || name === "input" || name === "logits") return SKIP();
      const list = off || [], meant = meantBy(window.kcScene, name);
      const rest = list.filter((each) => !meant.includes(each));
      return list.length - rest.length === meant.length ? rest : rest.concat(meant);
    },

    keep_place: function (value, now) {
      const query = new URLSearchParams(window.location.search);
      if (query.has("place") || (now && now.place !== value)) remember({ place: value });
      return SKIP();
    },

    /* A click on a cell of a sweep chooses it, a second one lets it go; other axes, other cells. */
    pick_cell: function (click, rows, columns, clear, figure, cell) {
      const context = dc.callback_context;
      const cause = context.triggered.length ? context.triggered[0].prop_id : "";
      if (cause.startsWith("sweep-clear")) return clear ? [] : SKIP();
      if (!cause.startsWith("sweep-picture")) return cell && cell.length ? [] : SKIP();
      const point = click && click.points.length ? click.points[0] : null;
      if (!point || !figure) return SKIP();
      const found = figure.data[0].customdata[point.y][point.x].slice(0, 2);
      return cell && cell.join("\n") === found.join("\n") ? [] : found;
    },

    keep_sweep: function (number, rows, columns, picked, cell, ids) {
      const code = (text) => encodeURIComponent(text).replace(/[!'()*~]/g,
        (char) => "%" + char.charCodeAt(0).toString(16).toUpperCase());
      const list = (values) => [].concat(values).map(code).join("~");
      const where = ids.map((id, place) => [id.name, picked[place]])
        .filter((each) => each[1] && each[1].length)
        .map((each) => code(each[0]) + ":" + list(each[1]));
      remember({ rows: rows, columns: columns, number: number, where: where.join(";"),
        cell: cell && cell.length ? list(cell) : null });
      return SKIP();
    },

    /* A form's words become a link, so that every question can be sent to someone. */
    submit: function (clicks, s1, s2, s3, s4, s5, model, prompt, subject, answer, against, foil) {
      if (!(clicks || s1 || s2 || s3 || s4 || s5)) return SKIP();
      const part = (name, value) => "&" + name + "=" + encodeURIComponent((value || "").trim());
      const typed = (name, value) => ((value || "").trim() ? part(name, value) : "");
      return "?view=try" + part("model", model) + part("prompt", prompt) +
        part("subject", subject) + part("answer", answer) + typed("against", against) +
        typed("foil", foil) + "&go=" + Date.now();
    },

    keep_cell: function (click) {
      const point = click && click.points && click.points[0];
      if (point) remember({ place: point.y + ":" + point.x });
      return SKIP();
    },

    submit_edit: function (clicks, s1, target) {
      if (!(clicks || s1) || !(target || "").trim()) return SKIP();
      const query = new URLSearchParams(window.location.search);
      ["off", "node", "edge", "n", "t", "hide", "go"].forEach((name) => query.delete(name));
      query.set("target", target.trim());
      return "?" + query.toString() + "&go=" + Date.now();
    },

    open_row: function (click, rows) {
      if (!click || !rows || !rows.length) return SKIP();
      return "?view=" + rows[0].view + "&r=" + rows[0].id;
    },

    title: function (title) {
      document.title = title ? title + " · Knowledge Circuits" : "Knowledge Circuits";
      return SKIP();
    },
  };

  /* The chosen row of the list, or the first that the search leaves. */
  function openResult(chosen) {
    const api = window.dash_ag_grid && window.dash_ag_grid.getApi("results");
    if (!api) return;
    const focused = chosen && api.getFocusedCell && api.getFocusedCell();
    const node = api.getDisplayedRowAtIndex(focused ? focused.rowIndex : 0);
    if (node && node.data)
      dc.set_props("url", { search: "?view=" + node.data.view + "&r=" + node.data.id });
  }

  function plain(event) {
    return !(event.ctrlKey || event.metaKey || event.altKey);
  }

  document.addEventListener("keydown", function (event) {
    const target = event.target || {};
    const field = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName || "");
    const picture = document.getElementById("picture");
    if (event.key === "Escape" && document.querySelector("details.term[open]")) closeNotes(null);
    else if (event.key === "Escape" && picture) {
      if (document.activeElement) document.activeElement.blur();
      dc.set_props("selected", { data: {} });
    } else if (event.key === "/" && !field) {
      const search = document.getElementById("search") || document.getElementById("result-search");
      if (search) { search.focus(); event.preventDefault(); }
    } else if (event.key === "Enter" && target.id === "search" && window.kcScene) {
      const next = found(window.kcScene, target.value);
      if (next) dc.set_props("selected", { data: next });
    } else if (event.key === "Enter" && target.id === "result-search") {
      openResult(false);
    } else if (event.key === "Enter" && target.closest && target.closest("#results .ag-row")) {
      openResult(true);
    } else if (picture && !field && event.key === "g" && window.kcGroups && plain(event)) {
      const name = chosenGroup(window.kcGroups, window.kcScene);
      if (name !== null && name !== undefined)
        dc.set_props("boxes",
          { data: collapsedOf(window.kcGroups.groups, window.kcGroups.boxes, name) });
    } else if (picture && !field && event.key === "0") zoom(0);
    else if (picture && !field && (event.key === "+" || event.key === "-"))
      zoom(event.key === "+" ? 1.4 : 1 / 1.4);
  });

  /* One note on a term at a time; Escape closes it. */
  function closeNotes(but) {
    document.querySelectorAll("details.term[open]").forEach((note) => {
      if (note !== but) note.open = false;
    });
  }

  document.addEventListener("toggle", function (event) {
    if (event.target.matches && event.target.matches("details.term[open]"))
      closeNotes(event.target);
  }, true);

  document.addEventListener("click", function (event) {
    closeNotes(event.target.closest && event.target.closest("details.term"));
    const button = event.target.closest && event.target.closest(".zoom button");
    if (button) zoom({ "zoom-in": 1.4, "zoom-out": 1 / 1.4, "zoom-fit": 0 }[button.id]);
  });
})();
