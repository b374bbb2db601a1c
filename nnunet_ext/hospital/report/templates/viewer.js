"use strict";
(() => {
  const FILL = 0.3;
  const MOST_KEPT = 48;
  const DRAG_PX = 8;
  const WHEEL_PX = 40;
  const PAGE_SLICES = 10;

  const byId = (id) => document.getElementById(id);
  const facts = JSON.parse(byId("facts").textContent);
  const { columns, rows, slices, windows, segments } = facts;
  const viewer = byId("viewer");
  const stage = byId("stage");
  const canvas = byId("picture");
  const context = canvas.getContext("2d");
  const jumps = [...document.querySelectorAll("button.jump")];

  const state = {
    slice: facts.first,
    centre: windows[0].centre,
    width: windows[0].width,
    overlay: true,
    hidden: new Set(),
    lesion: null,
  };

  // Decoding: a browser turns pictures into pixels only through a canvas.
  const kept = new Map();
  const workbench = document.createElement("canvas");
  workbench.width = columns;
  workbench.height = rows;
  const workContext = workbench.getContext("2d", { willReadFrequently: true });

  async function pixelsOf(id, mediaType) {
    const element = byId(id);
    if (!element) {
      return null;
    }
    const image = new Image();
    image.src = `data:${mediaType};base64,${element.textContent}`;
    await image.decode();
    workContext.drawImage(image, 0, 0, columns, rows);
    return workContext.getImageData(0, 0, columns, rows).data;
  }

  async function decoded(index) {
    if (kept.has(index)) {
      return kept.get(index);
    }
    const grey = await pixelsOf(`grey-${index}`, facts.mediaType);
    const codes = new Uint8Array(columns * rows);
    for (let i = 0; i < codes.length; i += 1) {
      codes[i] = grey[4 * i];
    }

    const colours = await pixelsOf(`labels-${index}`, "image/png");
    let labels = null;
    if (colours) {
      labels = new Uint16Array(columns * rows);
      for (let i = 0; i < labels.length; i += 1) {
        labels[i] = colours[4 * i] + 256 * colours[4 * i + 1];
      }
    }

    if (kept.size >= MOST_KEPT) {
      kept.delete(kept.keys().next().value);
    }
    kept.set(index, { codes, labels });
    return kept.get(index);
  }

  // Some browsers alter what is read from a canvas, against tracking; labels would be wrong then.
  function pixelsAreTrue() {
    const data = workContext.createImageData(16, 1);
    for (let i = 0; i < data.data.length; i += 1) {
      data.data[i] = i % 4 === 3 ? 255 : (37 * i) % 256;
    }
    workContext.putImageData(data, 0, 0);
    const read = workContext.getImageData(0, 0, 16, 1).data;
    return data.data.every((value, i) => value === read[i]);
  }

  function valueOf(code) {
    const knots = facts.knots;
    let upper = 1;
    while (upper < knots.length - 1 && code > knots[upper][1]) {
      upper += 1;
    }
    const [lowValue, lowCode] = knots[upper - 1];
    const [highValue, highCode] = knots[upper];
    return lowValue + ((code - lowCode) / (highCode - lowCode)) * (highValue - lowValue);
  }

  function greyOfCodes() {
    const grey = new Uint8ClampedArray(256);
    const black = state.centre - state.width / 2;
    for (let code = 0; code < 256; code += 1) {
      grey[code] = (255 * (valueOf(code) - black)) / state.width;
    }
    return grey;
  }

  // The colour of each label value: of the last visible segment that holds it.
  function coloursOfLabels() {
    const colours = new Map();
    if (!state.overlay) {
      return colours;
    }
    for (const segment of segments) {
      if (!state.hidden.has(segment.number)) {
        for (const value of segment.values) {
          colours.set(value, segment.colour);
        }
      }
    }
    return colours;
  }

  function isBorder(labels, place, column, row) {
    const label = labels[place];
    return (
      (column > 0 && labels[place - 1] !== label) ||
      (column < columns - 1 && labels[place + 1] !== label) ||
      (row > 0 && labels[place - columns] !== label) ||
      (row < rows - 1 && labels[place + columns] !== label)
    );
  }

  function paint({ codes, labels }) {
    const image = context.createImageData(columns, rows);
    const pixels = image.data;
    const grey = greyOfCodes();
    const colours = coloursOfLabels();
    for (let row = 0, place = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, place += 1) {
        const value = grey[codes[place]];
        const colour = labels && labels[place] ? colours.get(labels[place]) : undefined;
        const at = 4 * place;
        if (colour) {
          const share = isBorder(labels, place, column, row) ? 1 : FILL;
          pixels[at] = (1 - share) * value + share * colour[0];
          pixels[at + 1] = (1 - share) * value + share * colour[1];
          pixels[at + 2] = (1 - share) * value + share * colour[2];
        } else {
          pixels[at] = pixels[at + 1] = pixels[at + 2] = value;
        }
        pixels[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  function segmentsOn(labels) {
    if (!labels) {
      return "";
    }
    const present = new Set(labels);
    const names = segments.filter((segment) => segment.values.some((value) => present.has(value)));
    return names.map((segment) => segment.label).join(", ");
  }

  function describe(labels) {
    const { mm, image } = slices[state.slice];
    const parts = [`Slice ${state.slice + 1} of ${slices.length}`, `${mm.toFixed(1)} mm`];
    if (image !== null) {
      parts.push(`image number ${image}`);
    }
    const names = segmentsOn(labels);
    if (names) {
      parts.push(`shows ${names}`);
    }
    byId("status").textContent = parts.join(" · ");
  }

  function placeMark() {
    const mark = byId("mark");
    const lesion = state.lesion;
    const seen = lesion && state.slice >= lesion.first && state.slice <= lesion.last;
    mark.hidden = !seen;
    if (seen) {
      const [left, top, right, bottom] = lesion.box;
      const border = 3;
      mark.style.left = `${(100 * (left - border)) / columns}%`;
      mark.style.top = `${(100 * (top - border)) / rows}%`;
      mark.style.width = `${(100 * (right - left + 1 + 2 * border)) / columns}%`;
      mark.style.height = `${(100 * (bottom - top + 1 + 2 * border)) / rows}%`;
    }
  }

  let drawing = Promise.resolve();
  let requests = 0;

  function draw() {
    viewer.dataset.ready = "";
    requests += 1;
    const request = requests;
    drawing = drawing.then(async () => {
      if (request !== requests) {
        return; // a later one draws what is wanted by now
      }
      const wanted = state.slice;
      const content = await decoded(wanted);
      if (wanted !== state.slice) {
        return;
      }
      paint(content);
      describe(content.labels);
      placeMark();
      viewer.dataset.ready = String(wanted);
    });
    drawing = drawing.catch((error) => complain(`This slice cannot be shown (${error.message}).`));
  }

  function complain(text) {
    byId("trouble").hidden = false;
    byId("trouble").textContent = text;
  }

  function show(slice) {
    state.slice = Math.min(Math.max(slice, 0), slices.length - 1);
    byId("slice").value = state.slice + 1;
    byId("slice").setAttribute("aria-valuetext", `${state.slice + 1} of ${slices.length}`);
    draw();
  }

  function useWindow(centre, width) {
    if (Number.isFinite(centre) && Number.isFinite(width) && width > 0) {
      state.centre = centre;
      state.width = width;
      draw();
    }
  }

  function choose(number) {
    const window = windows[number];
    if (window) {
      byId("window").value = String(number);
      byId("centre").value = Math.round(window.centre);
      byId("width").value = Math.round(window.width);
      useWindow(window.centre, window.width);
    }
  }

  function toggle(shown) {
    state.overlay = shown;
    byId("overlay").checked = shown;
    draw();
  }

  function jump(button) {
    if (!button) {
      return;
    }
    for (const other of jumps) {
      other.setAttribute("aria-current", String(other === button));
    }
    state.lesion = {
      button,
      first: Number(button.dataset.first),
      last: Number(button.dataset.last),
      box: button.dataset.box.split(" ").map(Number),
    };
    show(Number(button.dataset.slice));
  }

  function jumpBy(step) {
    const current = state.lesion ? jumps.indexOf(state.lesion.button) : step > 0 ? -1 : 0;
    jump(jumps[(current + step + jumps.length) % jumps.length]);
  }

  const KEYS = {
    ArrowDown: () => show(state.slice - 1),
    ArrowLeft: () => show(state.slice - 1),
    ArrowUp: () => show(state.slice + 1),
    ArrowRight: () => show(state.slice + 1),
    PageDown: () => show(state.slice - PAGE_SLICES),
    PageUp: () => show(state.slice + PAGE_SLICES),
    Home: () => show(0),
    End: () => show(slices.length - 1),
    o: () => toggle(!state.overlay),
    n: () => jumpBy(1),
    p: () => jumpBy(-1),
  };

  // Keys count while the viewer has the focus, so that they disturb nothing else.
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) {
      return;
    }
    const action = KEYS[event.key];
    if (action) {
      action();
      event.preventDefault();
    } else if (windows[Number(event.key) - 1]) {
      choose(Number(event.key) - 1);
    }
  });

  let turned = 0;
  stage.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) {
        return;
      }
      event.preventDefault();
      const lines = event.deltaMode === 1 ? WHEEL_PX : 1;
      turned += event.deltaY * lines;
      const steps = Math.trunc(turned / WHEEL_PX);
      if (steps) {
        turned -= steps * WHEEL_PX;
        show(state.slice - steps);
      }
    },
    { passive: false },
  );

  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    dragged = { x: event.clientX, slice: state.slice };
    stage.setPointerCapture(event.pointerId);
    viewer.focus({ preventScroll: true });
  });
  stage.addEventListener("pointermove", (event) => {
    if (dragged) {
      const slice = dragged.slice + Math.round((event.clientX - dragged.x) / DRAG_PX);
      if (slice !== state.slice) {
        show(slice);
      }
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, () => {
      dragged = null;
    });
  }

  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("slice").addEventListener("input", (event) => show(Number(event.target.value) - 1));
  byId("overlay").addEventListener("change", (event) => toggle(event.target.checked));
  byId("window").addEventListener("change", (event) => choose(Number(event.target.value)));
  for (const id of ["centre", "width"]) {
    byId(id).addEventListener("input", () => {
      byId("window").value = "own";
      useWindow(byId("centre").valueAsNumber, byId("width").valueAsNumber);
    });
  }
  for (const box of document.querySelectorAll("input.shown")) {
    box.addEventListener("change", () => {
      const number = Number(box.value);
      if (box.checked) {
        state.hidden.delete(number);
      } else {
        state.hidden.add(number);
      }
      draw();
    });
  }
  for (const button of jumps) {
    button.addEventListener("click", () => {
      jump(button);
      stage.scrollIntoView({ block: "nearest" });
    });
  }

  // Pixels need not be square.
  const ratio = (columns * facts.spacing[0]) / (rows * facts.spacing[1]);
  stage.style.aspectRatio = String(ratio);
  stage.style.width = `min(100%, ${80 * ratio}vh)`;

  if (pixelsAreTrue()) {
    choose(0);
    show(state.slice);
  } else {
    complain(
      "This browser alters pictures to prevent tracking, so slices would be wrong. " +
        "Allow canvas data for this page, or use another browser.",
    );
  }
})();
