/// <reference lib="deno.unstable" />
import { declaresTests } from "./places.ts";

type Rule = Deno.lint.Rule;
type Context = Deno.lint.RuleContext;

/** Calls `check` with the specifier of every import, export and dynamic import of a file. */
function onSpecifiers(check: (context: Context, node: Deno.lint.Node, specifier: string) => void): Rule {
  return {
    create(context) {
      const visit = (node: { source: Deno.lint.Node | null }) => {
        const source = node.source;
        if (source?.type === "Literal" && typeof source.value === "string") check(context, source, source.value);
      };
      return {
        ImportDeclaration: visit,
        ExportNamedDeclaration: visit,
        ExportAllDeclaration: visit,
        ImportExpression: visit,
      };
    },
  };
}

function keyOf(node: Deno.lint.Property): string | undefined {
  if (node.key.type === "Identifier") return node.computed ? undefined : node.key.name;
  return node.key.type === "Literal" ? String(node.key.value) : undefined;
}

const skippingCalls = new Set(["ignore", "only", "skip"]);

/** Rules of the whole repository. */
export const repoRules: Record<string, Rule> = {
  "no-remote-import": onSpecifiers((context, node, specifier) => {
    if (!/^(jsr:|https?:)/.test(specifier)) return;
    context.report({
      node,
      message: `Cannot import ${specifier}: dependencies come from npm only`,
      hint: "Pin an npm package in the root deno.json and import it by its name (docs/adr/0001)",
    });
  }),
  "no-inline-npm": onSpecifiers((context, node, specifier) => {
    if (!specifier.startsWith("npm:")) return;
    context.report({
      node,
      message: `Cannot import ${specifier}: versions are pinned in one place`,
      hint: "Add the package to `imports` of the root deno.json and import it by its bare name",
    });
  }),
  "no-node-http2": onSpecifiers((context, node, specifier) => {
    if (specifier !== "node:http2" && specifier !== "http2") return;
    context.report({
      node,
      message: "Cannot import node:http2: it aborts the process after about a thousand requests on a connection",
      hint: "Serve with Deno.serve on loopback or node:https between hosts (docs/adr/0003)",
    });
  }),
  "no-hidden-skip": {
    create(context) {
      if (!declaresTests(context.filename)) return {};
      const hint = "Use skipTest(name, reason, fn) or testUnless(name, reason, fn) of @ultracloud/testing";
      return {
        CallExpression(node) {
          const callee = node.callee;
          if (callee.type !== "MemberExpression" || callee.property.type !== "Identifier") return;
          if (!skippingCalls.has(callee.property.name)) return;
          const source = context.sourceCode.getText(callee.object);
          if (!/^(Deno\.test|test|it|describe)$/.test(source)) return;
          const message = `Cannot use ${source}.${callee.property.name}: a skip needs a reason that the run prints`;
          context.report({ node, message, hint });
        },
        Property(node) {
          const key = keyOf(node);
          if (key !== "ignore" && key !== "only") return;
          if (node.value.type !== "Literal" || node.value.value !== true) return;
          context.report({ node, message: `Cannot set ${key}: true: a skip needs a reason that the run prints`, hint });
        },
      };
    },
  },
  "no-sanitizer-off": {
    create(context) {
      return {
        Property(node) {
          const key = keyOf(node);
          if (key === undefined || !/^sanitize(Ops|Resources|Exit)$/.test(key)) return;
          if (node.value.type !== "Literal" || node.value.value !== false) return;
          context.report({
            node,
            message: `Cannot set ${key}: false: a leak in a test is a leak in a service`,
            hint: "Close what the test opened; `await using` does it on every path",
          });
        },
      };
    },
  },
};
