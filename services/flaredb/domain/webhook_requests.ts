import { fault, invalidField } from "@ultracloud/base";
import { webhookTablesMax } from "./bounds.ts";

const namePattern = /^[a-z][a-z0-9-]{0,62}$/;
const urlCharsMax = 2_048;
const tableCharsMax = 128;
const secretCharsMin = 16;
const secretCharsMax = 256;

export interface WebhookPolicy {
  /** Takes http, too: signed all the same, but anybody on the way can read. */
  readonly allowPlain: boolean;
}

export function checkWebhookName(name: string, field = "name"): string {
  if (namePattern.test(name)) return name;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(name.slice(0, 80))} as ${field}: wanted a-z, then a-z, 0-9 and -, at most 63`,
    "invalid_webhook",
  );
}

/** Where it may be posted to is judged by the fetcher, each time: what a name means can change. */
export function checkWebhookUrl(text: string, { allowPlain }: WebhookPolicy, field = "url"): void {
  const url = text.length <= urlCharsMax && URL.canParse(text) ? new URL(text) : undefined;
  const wanted = allowPlain ? "http:// or https://" : "https://";
  const known = url?.protocol === "https:" || (allowPlain && url?.protocol === "http:");
  if (url !== undefined && known && url.username === "" && url.password === "" && url.hash === "") return;
  throw invalidField(
    field,
    `Cannot post to ${JSON.stringify(schemeAndHost(url))} as ${field}: wanted ${wanted}host/path without a user and ` +
      `a fragment, at most ${urlCharsMax} characters`,
    "invalid_url",
  );
}

/** What of a URL may be told in an error: queries hold secrets. */
function schemeAndHost(url: URL | undefined): string {
  return url === undefined ? "what is no URL" : `${url.protocol}//${url.host}`.slice(0, 200);
}

export function checkWebhookTables(tables: readonly string[], field = "tables"): void {
  if (tables.length > webhookTablesMax) {
    throw invalidField(field, `Cannot follow ${tables.length} tables: wanted at most ${webhookTablesMax}`);
  }
  const bad = tables.find((name, i) =>
    name === "" || name.length > tableCharsMax || !name.isWellFormed() || tables.indexOf(name) !== i
  );
  if (bad === undefined) return;
  throw invalidField(
    field,
    `Cannot follow table ${
      JSON.stringify(bad.slice(0, 80))
    }: wanted different names of 1 to ${tableCharsMax} characters`,
  );
}

/** The secret is not told, whatever is wrong with it. */
export function checkWebhookSecret(secret: string, field = "secret"): void {
  const { length } = secret;
  if (length === 0 || (length >= secretCharsMin && length <= secretCharsMax && /^[\x21-\x7e]+$/.test(secret))) return;
  throw invalidField(
    field,
    `Cannot sign with a secret of ${length} characters: wanted ${secretCharsMin} to ${secretCharsMax} printable ones, ` +
      "or none to have one made",
    "invalid_secret",
  );
}

export function webhookNotFound(database: string, name: string): Error {
  return fault("not_found", "webhook_not_found", `Cannot find webhook ${name} of database ${database}`);
}
