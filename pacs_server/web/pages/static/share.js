// Where a link to one study leads: what is behind # is its secret, which is sent by the form, and taken out of the
// address first, so that it does not stay in the history of the browser.

const secret = location.hash.slice(1);
const form = document.getElementById("open");
if (secret) {
  history.replaceState(null, "", location.pathname);
  form.elements.secret.value = secret;
  form.requestSubmit();
}
