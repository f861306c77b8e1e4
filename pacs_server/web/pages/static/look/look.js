// Begins the quick look.

import { App } from "./app.js";
import { Toolbar } from "./toolbar.js";

const root = document.getElementById("look");
const app = new App(root);
app.add(root.dataset.begin);
if (root.dataset.compare) app.add(root.dataset.compare);
app.choosePane(app.panes[0]);
app.toolbar = new Toolbar(app);
root.classList.add("ready");
