/** Copy `text` and say so on the button; browsers refuse on plain http, except from this machine. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Refused by the browser";
  }
  button.disabled = true; // Until the label is its own again.
  setTimeout(() => {
    button.textContent = label;
    button.disabled = false;
  }, 1500);
}
