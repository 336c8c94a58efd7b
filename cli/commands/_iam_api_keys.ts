import { buildRouteMap } from "@stricli/core";
import { ServiceAccountService } from "@ultracloud/proto/iam/v1";
import { command, parseDuration } from "../frame/command.ts";
import { accountArg, accountNames } from "./_iam_shared.ts";

export const apiKey = buildRouteMap({
  docs: { brief: "Keys of a service account" },
  routes: {
    create: command<{ ttl?: number }, [string]>({
      brief: "Make a key; the secret is shown this once",
      args: accountArg,
      complete: accountNames,
      flags: {
        ttl: {
          kind: "parsed",
          parse: parseDuration,
          optional: true,
          brief: "Life of the key; 90 days unless given",
        },
      },
      async run({ session, items }, flags, name) {
        const answer = await session.client(ServiceAccountService, "iam").createApiKey({
          project: session.project,
          serviceAccount: name,
          ttlMs: BigInt(flags.ttl ?? 0),
        });
        const value = { id: answer.key?.id ?? "", secret: answer.secret };
        await items([{ value, json: value, name: value.id }], [
          { name: "id", get: (k) => k.id },
          { name: "secret", get: (k) => k.secret },
        ], true);
      },
    }),
    list: command<Record<never, never>, [string]>({
      brief: "List the keys of a service account",
      args: accountArg,
      complete: accountNames,
      async run({ session, items }, _flags, name) {
        const { keys } = await session.client(ServiceAccountService, "iam").listApiKeys({
          project: session.project,
          serviceAccount: name,
        });
        await items(
          keys.map((key) => {
            const value = {
              id: key.id,
              expires: key.expireTime ? new Date(Number(key.expireTime.seconds) * 1000).toISOString() : "",
            };
            return { value, json: value, name: key.id };
          }),
          [{ name: "id", get: (k) => k.id }, { name: "expires", get: (k) => k.expires }],
        );
      },
    }),
    rotate: command<{ ttl?: number; overlap?: number }, [string, string]>({
      brief: "Make a new key beside an old one, which ends after the overlap; the secret is shown this once",
      args: [...accountArg, { brief: "Key id", placeholder: "key" }],
      complete: accountNames,
      flags: {
        ttl: {
          kind: "parsed",
          parse: parseDuration,
          optional: true,
          brief: "Life of the new key; 90 days unless given",
        },
        overlap: {
          kind: "parsed",
          parse: parseDuration,
          optional: true,
          brief: "Life left to the old key; a day unless given",
        },
      },
      async run({ session, items }, flags, name, keyId) {
        const answer = await session.client(ServiceAccountService, "iam").rotateApiKey({
          project: session.project,
          serviceAccount: name,
          keyId,
          ttlMs: BigInt(flags.ttl ?? 0),
          overlapMs: BigInt(flags.overlap ?? 0),
        });
        const value = { id: answer.key?.id ?? "", secret: answer.secret };
        await items([{ value, json: value, name: value.id }], [
          { name: "id", get: (k) => k.id },
          { name: "secret", get: (k) => k.secret },
        ], true);
      },
    }),
    delete: command<Record<never, never>, [string, string]>({
      brief: "Delete a key; tokens made with it are refused",
      args: [...accountArg, { brief: "Key id", placeholder: "key" }],
      complete: accountNames,
      async run({ session, confirm, io }, _flags, name, keyId) {
        confirm(`Delete the key ${keyId}?`);
        await session.client(ServiceAccountService, "iam").deleteApiKey({
          project: session.project,
          serviceAccount: name,
          keyId,
        });
        io.err(`Deleted key ${keyId}\n`);
      },
    }),
  },
});
