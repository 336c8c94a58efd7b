import assert from "node:assert/strict";
import type { As, World } from "../test_world.ts";
import { password, world } from "../test_world.ts";

/** A world whose tokens name its own address, with an organisation, a project and alice in it. */
export async function oauthWorld(): Promise<{ w: World; root: As; [Symbol.asyncDispose](): PromiseLike<void> }> {
  const w = await world({ ownIssuer: true });
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  await root.users.createUser({ org: "acme", name: "alice", password, email: "alice@acme.test" });
  return { w, root, [Symbol.asyncDispose]: () => w[Symbol.asyncDispose]() };
}

/** What a person's browser does with a page of ours: keeps cookies, sends the form. */
export class PlainBrowser {
  readonly #cookies = new Map<string, string>();
  /** The last page's HTML, and where it came from. */
  html = "";
  url = "";

  async open(url: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.#cookies.size > 0) headers.set("cookie", [...this.#cookies].map(([k, v]) => `${k}=${v}`).join("; "));
    const response = await fetch(url, { ...init, headers, redirect: "manual" });
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(";");
      this.#cookies.set(pair!.slice(0, pair!.indexOf("=")), pair!.slice(pair!.indexOf("=") + 1));
    }
    this.html = await response.text();
    this.url = url;
    return response;
  }

  forgetCookies(): void {
    this.#cookies.clear();
  }

  /** Sends the page's form with what a person types over what stands in it. */
  async submit(typed: Readonly<Record<string, string>>): Promise<Response> {
    const action = /<form method="post" action="([^"]+)"/.exec(this.html)?.[1];
    assert.ok(action, `no form on the page: ${this.html}`);
    const fields = new URLSearchParams();
    for (const [tag] of this.html.matchAll(/<input[^>]*>/g)) {
      const name = /name="([^"]*)"/.exec(tag)?.[1];
      if (name) fields.set(name, unescapeHtml(/value="([^"]*)"/.exec(tag)?.[1] ?? ""));
    }
    for (const [name, value] of Object.entries(typed)) fields.set(name, value);
    return await this.open(new URL(action, this.url).href, { method: "POST", body: fields });
  }
}

function unescapeHtml(text: string): string {
  return text.replaceAll("&quot;", '"').replaceAll("&#39;", "'").replaceAll("&lt;", "<").replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
}
