export * from "../gen/ultracloud/netagent/v1/netagent_pb.ts";
