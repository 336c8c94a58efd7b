import { buildRouteMap } from "@stricli/core";
import { generateIdentity } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import {
  type Authority,
  AuthoritySchema,
  CertificateService,
  MasterKeyService,
  type MasterKeyStatus,
  MasterKeyStatusSchema,
  type SigningKey,
  SigningKeySchema,
  SigningKeyService,
} from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, parseDuration, text } from "../frame/command.ts";
import { at, one } from "./_iam_shared.ts";

const keyColumns: readonly Column<SigningKey>[] = [
  { name: "id", get: (k) => k.id },
  { name: "phase", get: (k) => k.phase },
  { name: "signs_from", get: (k) => at(k.signTime) },
  { name: "trusted_until", get: (k) => k.retireTime ? at(k.retireTime) : "(newest)" },
];

export const keys = buildRouteMap({
  docs: { brief: "Keys that user tokens are signed with" },
  routes: {
    list: command({
      brief: "List signing keys and the phase each is in",
      async run({ session, list }) {
        await list(
          SigningKeySchema,
          (await session.client(SigningKeyService, "iam").listSigningKeys({})).keys,
          keyColumns,
        );
      },
    }),
    make: command<Record<never, never>, [string]>({
      brief: "Make the first signing key: a private Ed25519 JWK in a new file that only its owner can read",
      args: one("File that does not exist yet", "file"),
      async run({ io }, _flags, file) {
        const { privateKey } = await generateIdentity();
        try {
          await Deno.writeTextFile(file, JSON.stringify(privateKey) + "\n", { mode: 0o600, createNew: true });
        } catch (cause) {
          if (!(cause instanceof Deno.errors.AlreadyExists)) throw cause;
          throw fault("already_exists", "file_exists", `Cannot write ${file}: wanted a file that does not exist yet`, {
            cause,
          });
        }
        io.err(`Made a signing key in ${file}\n`);
      },
    }),
    rotate: command<{ emergency: boolean }, []>({
      brief: "Publish a new key; it signs after one cache life, the old one is trusted for one token life more",
      flags: {
        emergency: { kind: "boolean", default: false, brief: "Trust no other key from now on: all tokens end" },
      },
      async run({ session, list, confirm }, { emergency }) {
        if (emergency) confirm("End the tokens of everybody and sign with a new key at once?");
        const client = session.client(SigningKeyService, "iam");
        const signingKey = (await client.listSigningKeys({})).keys.find((key) => key.phase === "signing")?.id ?? "";
        await list(SigningKeySchema, (await client.rotateSigningKey({ emergency, signingKey })).keys, keyColumns);
      },
    }),
  },
});

const masterColumns: readonly Column<MasterKeyStatus>[] = [
  { name: "current", get: (s) => s.current },
  { name: "next", get: (s) => s.next || "(none)" },
  {
    name: "sealed",
    get: (s) => Object.entries(s.sealed).map(([key, count]) => `${key || "unnamed"}=${count}`).join(" "),
  },
];

export const masterKey = buildRouteMap({
  docs: { brief: "The key that secrets are sealed with at rest" },
  routes: {
    status: command({
      brief: "Show which master keys are known and what is sealed with each",
      async run({ session, one }) {
        await one(
          MasterKeyStatusSchema,
          await session.client(MasterKeyService, "iam").getMasterKeyStatus({}),
          masterColumns,
        );
      },
    }),
    reseal: command({
      brief: "Seal everything with the next master key, which every replica must have",
      async run({ session, one }) {
        const client = session.client(MasterKeyService, "iam");
        const { next, current } = await client.getMasterKeyStatus({});
        await one(MasterKeyStatusSchema, await client.reseal({ masterKey: next || current }), masterColumns);
      },
    }),
  },
});

const authorityColumns: readonly Column<Authority>[] = [
  { name: "id", get: (a) => a.id },
  { name: "phase", get: (a) => a.phase },
  { name: "signs_from", get: (a) => at(a.signTime) },
  { name: "trusted_until", get: (a) => a.retireTime ? at(a.retireTime) : "(newest)" },
];

export const ca = buildRouteMap({
  docs: { brief: "The authority that certificates of nodes and services are signed by" },
  routes: {
    list: command({
      brief: "List authorities and the phase each is in",
      async run({ session, list }) {
        const { authorities } = await session.client(CertificateService, "iam").listAuthorities({});
        await list(AuthoritySchema, authorities, authorityColumns);
      },
    }),
    rotate: command({
      brief: "Publish a new authority; it signs once every component has had time to trust it",
      async run({ session, list }) {
        const client = session.client(CertificateService, "iam");
        const authority = (await client.listAuthorities({})).authorities.find((a) => a.phase === "signing")?.id ?? "";
        await list(AuthoritySchema, (await client.rotateAuthority({ authority })).authorities, authorityColumns);
      },
    }),
    issue: command<{ ttl?: number; bundleFile?: string }, [string]>({
      brief: "Sign a certificate request (PKCS #10, PEM); the certificate goes to standard output",
      args: one("File with the request", "csr"),
      flags: {
        ttl: {
          kind: "parsed",
          parse: parseDuration,
          optional: true,
          brief: "Life of the certificate; 24h unless given",
        },
        bundleFile: { kind: "parsed", parse: text, optional: true, brief: "File to write the authorities to" },
      },
      async run({ session, io }, { ttl, bundleFile }, file) {
        const csrPem = await Deno.readTextFile(file);
        const client = session.client(CertificateService, "iam");
        const answer = await client.issueCertificate({ csrPem, ttlMs: BigInt(ttl ?? 0) });
        if (bundleFile !== undefined) await Deno.writeTextFile(bundleFile, answer.bundlePem);
        io.out(answer.certificatePem);
      },
    }),
    names: command<{ name: readonly string[] }, [string]>({
      brief: "Set the names an identity may have in its certificate, beside localhost",
      args: one("spiffe://CLUSTER/svc/NAME or /node/NAME", "identity"),
      flags: { name: { kind: "parsed", parse: text, variadic: true, brief: "DNS name or IP address, repeatable" } },
      async run({ session, io }, { name }, spiffeId) {
        await session.client(CertificateService, "iam").setCertificateNames({ spiffeId, names: [...name] });
        io.err(`${spiffeId} may be called ${name.join(", ")}\n`);
      },
    }),
  },
});
