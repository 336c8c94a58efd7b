import { createHash } from "node:crypto";

const style = `*{box-sizing:border-box}
:root{color-scheme:light dark;--page:#f1f3f6;--card:#fff;--text:#1a1f26;--soft:#4b5563;--edge:#d5dae1;--field:#66707d;--accent:#0b4f9c;--on:#fff;--bad:#8a0019;--badpage:#fdf0f1;--ring:#b35900}
@media (prefers-color-scheme:dark){:root{--page:#0f1318;--card:#191f27;--text:#eef1f5;--soft:#b4bdc9;--edge:#303a47;--field:#8794a5;--accent:#8ab8f5;--on:#0b1a2b;--bad:#ffb3bc;--badpage:#33181c;--ring:#ffb454}}
body{font:16px/1.5 system-ui,sans-serif;margin:0;min-height:100vh;padding:1.5rem 1rem;background:var(--page);color:var(--text)}
main{max-width:26rem;margin:0 auto;padding:1.5rem;background:var(--card);border:1px solid var(--edge);border-top:4px solid var(--accent);border-radius:.5rem}
@media (min-width:40rem){body{padding-top:12vh}main{padding:2rem 2.25rem 2.25rem}}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;overflow-wrap:anywhere}
p{margin:.5rem 0}
label{display:block;margin:1rem 0 .25rem;font-weight:600}
input{width:100%;font:inherit;padding:.6rem .75rem;border:1px solid var(--field);border-radius:.375rem;background:var(--card);color:var(--text)}
button{width:100%;min-height:2.875rem;font:inherit;font-weight:600;margin-top:.75rem;padding:.6rem;border:2px solid var(--accent);border-radius:.375rem;background:var(--accent);color:var(--on);cursor:pointer}
button.first{margin-top:1.5rem}
button.second{background:var(--card);color:var(--accent)}
input:focus-visible,button:focus-visible{outline:3px solid var(--ring);outline-offset:2px}
.error{border-left:4px solid var(--bad);border-radius:.25rem;padding:.6rem .75rem;margin:1rem 0;background:var(--badpage);color:var(--bad)}
.note{color:var(--soft)}`;
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
<button type="submit" name="decision" value="allow" class="first">Log in</button>
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
<button type="submit" name="decision" value="allow" class="first">Log in this device</button>
<button type="submit" name="decision" value="deny" class="second">Refuse it</button>
</form>`,
  );
}

export function messagePage(title: string, message: string): string {
  return page(title, `<p>${escapeHtml(message)}</p>\n<p class="note">You can close this page.</p>`);
}
