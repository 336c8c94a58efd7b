import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import * as oidc from "openid-client";
import { password, until } from "../test_world.ts";
import { findChromium, startChromium } from "./test_chromium.ts";
import { oauthWorld } from "./test_flow.ts";

const chromium = await findChromium();
const missing = chromium === undefined ? "this machine has no chromium" : undefined;

/** What a reader with a screen reader, a small screen and a keyboard needs of a page; empty when it is all there. */
const complaints = `(() => {
  const found = [];
  const fields = [...document.querySelectorAll("input:not([type=hidden])")];
  for (const field of fields) if (field.labels.length !== 1) found.push(field.name + " has no label");
  for (const element of [...fields, ...document.querySelectorAll("button")]) {
    if (element.getBoundingClientRect().right > innerWidth) found.push(element.name + " leaves the screen");
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push("it scrolls sideways");
  if (document.documentElement.lang === "") found.push("no language");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one heading");
  if (document.title === "") found.push("no title");
  if (document.scripts.length > 0) found.push("a script");
  for (const button of document.querySelectorAll("button")) if (button.offsetHeight < 44) found.push("a small button");
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((n) => n / 255)
      .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return /, 0\\)$/.test(colour) && element.parentElement ? behind(element.parentElement) : colour;
  };
  for (const element of document.querySelectorAll("h1, p, label, input:not([type=hidden]), button")) {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(element.tagName + " has a contrast of " + contrast.toFixed(2));
  }
  return found;
})()`;

testUnless(
  "the login page works in Chromium at 320 pixels, with the keyboard and without script",
  missing,
  async () => {
    await using o = await oauthWorld();
    const config = await oidc.discovery(new URL(o.w.first.url), "uc", {}, oidc.None(), {
      execute: [oidc.allowInsecureRequests],
    });
    let arrived: URL | undefined;
    await using app = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
      if (new URL(request.url).pathname === "/callback") arrived = new URL(request.url);
      return new Response("<title>app</title>", { headers: { "content-type": "text/html" } });
    });
    await using browser = await startChromium(chromium!, { width: 320, height: 640 });
    await browser.send("Emulation.setScriptExecutionDisabled", { value: true });
    const verifier = oidc.randomPKCECodeVerifier();
    const url = oidc.buildAuthorizationUrl(config, {
      redirect_uri: `http://127.0.0.1:${app.addr.port}/callback`,
      scope: "openid",
      code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
      code_challenge_method: "S256",
    });
    const scheme = (value: "light" | "dark") =>
      browser.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
    const fill = async (word: string) => {
      const order: string[] = [];
      for (const text of ["acme", "alice", word]) {
        await browser.press("Tab");
        order.push(await browser.evaluate<string>("document.activeElement.name"));
        await browser.evaluate("document.activeElement.select()");
        await browser.type(text);
      }
      assert.deepEqual(order, ["org", "user", "password"]);
      await browser.press("Enter");
    };
    await browser.goto(url.href);
    for (const value of ["dark", "light"] as const) {
      await scheme(value);
      assert.deepEqual(await browser.evaluate(complaints), [], value);
    }
    await fill("wrong");
    await until(
      "the page tells what was wrong",
      async () => await browser.evaluate("document.querySelector('[role=alert]') !== null").catch(() => false) === true,
    );
    for (const value of ["dark", "light"] as const) {
      await scheme(value);
      assert.deepEqual(await browser.evaluate(complaints), [], value);
    }
    assert.equal(
      await browser.evaluate("document.querySelector('#password').getAttribute('aria-describedby')"),
      "error",
    );
    await browser.goto(url.href);
    await fill(password);
    await until(
      "the browser is back at the program",
      async () => arrived !== undefined && await browser.evaluate("document.title").catch(() => "") === "app",
    );
    const tokens = await oidc.authorizationCodeGrant(config, arrived!, {
      pkceCodeVerifier: verifier,
      idTokenExpected: true,
    });
    assert.equal((await o.w.as(tokens.access_token).tokens.whoAmI({})).displayName, "acme/alice");

    await browser.goto(`${o.w.first.url}/oauth2/device?user_code=BCDF-GHJK`);
    assert.deepEqual(await browser.evaluate(complaints), []);
  },
);
