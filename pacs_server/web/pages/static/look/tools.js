// What the mouse, the wheel and fingers do to a pane.

const WHEEL_STEP = 60;
const ZOOM_STEP = 0.0022;
const TAP_MS = 300;

/** Have a pane listen. `app.tool` is what the left button and one finger do. */
export function listen(pane, app) {
  const pointers = new Map();
  const { canvas } = pane;
  let tool = "";
  let rest = 0;
  let wheeled = 0;
  let tapped = -Infinity;
  // Whether what goes on may still become a tap: one finger that does not move.
  let isTap = false;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  canvas.addEventListener("pointerdown", (event) => {
    app.choosePane(pane);
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    rest = 0;
    isTap = event.pointerType === "touch" && pointers.size === 1;
    if (pointers.size > 1 && tool === "measure") pane.measuring.undo();
    tool = pointers.size > 1 ? "pinch" : toolOf(event, app.tool);
    if (tool === "measure") pane.measuring.begin(pane.pointAt(place(event)));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    const [x, y] = [now.x - before.x, now.y - before.y];
    if (Math.hypot(x, y) > 3) isTap = false;
    if (tool === "pinch" && pointers.size === 2) pinch(pane, [...pointers.values()], before, now);
    pointers.set(event.pointerId, now);
    if (tool === "scroll") rest = scrolled(pane, rest + y);
    else if (tool === "window") app.pull(pane, x, y);
    else if (tool === "pan") pane.pan(x, y);
    else if (tool === "zoom") pane.zoom(Math.exp(-y * 0.01));
    else if (tool === "measure") pane.measuring.drag(pane.pointAt(now));
  });
  const over = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (tool === "measure") pane.measuring.end();
    // What one finger does begins again only with one finger.
    if (!pointers.size) tool = "";
    else tool = "rest";
  };
  canvas.addEventListener("pointerup", (event) => {
    over(event);
    if (!isTap) return;
    if (event.timeStamp - tapped < TAP_MS) toggleFit(pane);
    tapped = event.timeStamp;
  });
  canvas.addEventListener("pointercancel", over);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  // Some browsers make a double click of two taps as well.
  canvas.addEventListener("dblclick", () => { if (app.tool !== "measure" && !isTap) toggleFit(pane); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    app.choosePane(pane);
    const amount = event.deltaMode === 1 ? event.deltaY * WHEEL_STEP : event.deltaY;
    if (event.ctrlKey || event.metaKey) {
      pane.zoom(Math.exp(-amount * ZOOM_STEP), place(event));
      return;
    }
    // A click of a wheel is one image; a touchpad sends many small steps.
    wheeled = Math.sign(wheeled) === Math.sign(amount) ? wheeled + amount : amount;
    const steps = Math.abs(amount) >= WHEEL_STEP ? Math.sign(amount) : Math.trunc(wheeled / WHEEL_STEP);
    if (steps) {
      wheeled = 0;
      app.cineOf(pane).stop();
      pane.go(pane.index + steps);
    }
  }, { passive: false });
}

/** The right button pulls on the window, the middle one moves the image. */
const toolOf = (event, chosen) => ({ 1: "pan", 2: "window" })[event.button] ?? (event.shiftKey ? "pan" : chosen);

/** Scroll by pixels; what is not enough for an image is kept for later. A series fits into the height of the pane. */
function scrolled(pane, amount) {
  const count = pane.series?.images.length ?? 1;
  const step = Math.min(Math.max(pane.picture.height / count, 3), 24);
  const steps = Math.trunc(amount / step);
  if (steps) {
    pane.app.cineOf(pane).stop();
    pane.go(pane.index + steps);
  }
  return amount - steps * step;
}

function pinch(pane, [a, b], before, now) {
  const still = a === before ? b : a;
  const distance = (point) => Math.max(Math.hypot(point.x - still.x, point.y - still.y), 8);
  pane.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  pane.zoom(distance(now) / distance(before), { x: (now.x + still.x) / 2, y: (now.y + still.y) / 2 });
}

function toggleFit(pane) {
  if (pane.isFitted) pane.zoom(2);
  else pane.fit();
}
