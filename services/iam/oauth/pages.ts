import { createHash } from "node:crypto";

const style = `*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;padding:1rem;background:#fff;color:#1a1a1a}
main{max-width:26rem;margin:0 auto}
h1{font-size:1.4rem;overflow-wrap:anywhere}
label{display:block;margin-top:1rem;font-weight:600}
input{width:100%;font:inherit;padding:.6rem;border:1px solid #595959;border-radius:.25rem;background:#fff;color:#1a1a1a}
button{width:100%;min-height:2.75rem;font:inherit;margin-top:1rem;padding:.6rem;border:2px solid #0b4f9c;border-radius:.25rem;background:#0b4f9c;color:#fff}
button.second{background:#fff;color:#0b4f9c}
input:focus-visible,button:focus-visible{outline:3px solid #b35900;outline-offset:2px}
.error{border-left:4px solid #b00020;padding:.5rem .75rem;margin:1rem 0;color:#8a0019}
.note{color:#4a4a4a}`;
const styleHash = createHash("sha256").update(style).digest("base64");

/** Text as HTML shows it; also safe in a quoted attribute. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (c) => names[c]!);
}

/** A page without script: it works in any browser, and none can be put into it. */
function page(title: string, body: string): string {
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${escapeHtml(title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${escapeHtml(title)}</h1>
${body}
</main>
</body>
</html>
`;
}

/** Headers of every page; `formTo` is where a form may lead beside iam itself. */
export function pageHeaders(formTo = ""): Record<string, string> {
  return {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "content-security-policy":
      `default-src 'none'; style-src 'sha256-${styleHash}'; form-action 'self'${formTo}; frame-ancestors 'none'; base-uri 'none'`,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
  };
}

const hidden = (fields: Readonly<Record<string, string>>) =>
  Object.entries(fields).map(([name, value]) => `<input type="hidden" name="${name}" value="${escapeHtml(value)}">`)
    .join("\n");

/** Told to screen readers at once, and named by the field that is wrong. */
const failure = (error: string | undefined) =>
  error === undefined ? "" : `<p class="error" role="alert" id="error">${escapeHtml(error)}</p>`;

const credentials = (o: { readonly org: string; readonly user: string; readonly error?: string | undefined }) => {
  const wrong = o.error === undefined ? "" : ' aria-describedby="error"';
  return `<label for="org">Organisation</label>
<input id="org" name="org" value="${
    escapeHtml(o.org)
  }" autocomplete="organization" autocapitalize="none" spellcheck="false" maxlength="63"${wrong}>
<label for="user">User</label>
<input id="user" name="user" value="${
    escapeHtml(o.user)
  }" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="63" required${wrong}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="256" required${wrong}>`;
};

export interface LoginPage {
  readonly client: string;
  readonly action: string;
  readonly fields: Readonly<Record<string, string>>;
  readonly org: string;
  readonly user: string;
  readonly error?: string | undefined;
}

export function loginPage(o: LoginPage): string {
  return page(
    "Log in to UltraCloud",
    `<p>To continue to <strong>${escapeHtml(o.client)}</strong>.</p>
${failure(o.error)}
<form method="post" action="${escapeHtml(o.action)}">
${hidden(o.fields)}
${credentials(o)}
<button type="submit" name="decision" value="allow">Log in</button>
<button type="submit" name="decision" value="deny" class="second" formnovalidate>Cancel</button>
</form>`,
  );
}

export function devicePage(
  o: {
    readonly action: string;
    readonly fields: Readonly<Record<string, string>>;
    readonly code: string;
    readonly org: string;
    readonly user: string;
    readonly error?: string | undefined;
  },
): string {
  return page(
    "Log in a device",
    `<p>Enter the code that your terminal shows. Go on only if you started this login yourself.</p>
${failure(o.error)}
<form method="post" action="${escapeHtml(o.action)}">
${hidden(o.fields)}
<label for="user_code">Code</label>
<input id="user_code" name="user_code" value="${
      escapeHtml(o.code)
    }" autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="16" required>
${credentials(o)}
<button type="submit" name="decision" value="allow">Log in this device</button>
<button type="submit" name="decision" value="deny" class="second">Refuse it</button>
</form>`,
  );
}

export function messagePage(title: string, message: string): string {
  return page(title, `<p>${escapeHtml(message)}</p>\n<p class="note">You can close this page.</p>`);
}
