//! gRPC reflection: tells tools that do not have our files what may be called, from the descriptors that the contract was built with.
//!
//! Descriptors are walked as they lie, field by field: to read them whole takes more code than the rest of a small service.

use std::{iter, pin::Pin};

use prost::{
    bytes::Buf,
    encoding::{WireType, decode_key, decode_varint},
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        server_reflection_server::ServerReflection,
    },
    {v1, v1alpha},
};

/// Sets of files, as the compiler of each contract wrote them.
const SETS: [&[u8]; 4] = [
    spotter_proto::v1::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    v1::FILE_DESCRIPTOR_SET,
    v1alpha::FILE_DESCRIPTOR_SET,
];

// Numbers of fields in descriptor.proto.
const FILE_OF_SET: u32 = 1;
const NAME: u32 = 1;
const PACKAGE_OF_FILE: u32 = 2;

/// Answers from the descriptors inside this program.
#[derive(Debug)]
pub struct Reflection;

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let answers = request.into_inner().map(|asked| {
            let asked = asked?;
            let answer = answer(asked.message_request.as_ref())?;
            Ok(ServerReflectionResponse {
                valid_host: asked.host.clone(),
                original_request: Some(asked),
                message_response: Some(answer),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn answer(asked: Option<&MessageRequest>) -> Result<MessageResponse, Status> {
    let file = match asked {
        Some(MessageRequest::FileByFilename(name)) => files().find(|file| text(file, NAME) == name),
        Some(MessageRequest::FileContainingSymbol(symbol)) => {
            files().find(|file| declares(file, symbol))
        }
        Some(MessageRequest::ListServices(_)) => {
            let service = services().map(|name| ServiceResponse { name }).collect();
            let list = ListServiceResponse { service };
            return Ok(MessageResponse::ListServicesResponse(list));
        }
        // Some tools give up when this fails, though nothing here can be extended.
        Some(MessageRequest::AllExtensionNumbersOfType(_)) => {
            let none = ExtensionNumberResponse::default();
            return Ok(MessageResponse::AllExtensionNumbersResponse(none));
        }
        Some(MessageRequest::FileContainingExtension(_)) => None,
        None => return Err(Status::invalid_argument("the request asks for nothing")),
    };
    let file = file.ok_or_else(|| Status::not_found("the agent has no such file or symbol"))?;
    Ok(MessageResponse::FileDescriptorResponse(
        FileDescriptorResponse {
            file_descriptor_proto: vec![file.to_vec()],
        },
    ))
}

/// What a descriptor describes.
#[derive(Clone, Copy)]
enum Kind {
    File,
    Message,
    Enum,
    Service,
    /// A field, a value or a method: nothing is declared within.
    Leaf,
}

impl Kind {
    /// What field `number` of a descriptor of this kind declares.
    fn within(self, number: u32) -> Option<Self> {
        match (self, number) {
            (Self::File, 4) | (Self::Message, 3) => Some(Self::Message),
            (Self::File, 5) | (Self::Message, 4) => Some(Self::Enum),
            (Self::File, 6) => Some(Self::Service),
            (Self::Message, 2 | 8) | (Self::Enum | Self::Service, 2) => Some(Self::Leaf),
            _ => None,
        }
    }
}

fn files() -> impl Iterator<Item = &'static [u8]> {
    let of_set = |set| embedded(set).filter(|(number, _)| *number == FILE_OF_SET);
    SETS.into_iter().flat_map(of_set).map(|(_, file)| file)
}

fn services() -> impl Iterator<Item = String> {
    files().flat_map(|file| {
        let services = embedded(file)
            .filter(|(number, _)| matches!(Kind::File.within(*number), Some(Kind::Service)));
        services
            .map(|(_, service)| format!("{}.{}", text(file, PACKAGE_OF_FILE), text(service, NAME)))
    })
}

fn declares(file: &[u8], symbol: &str) -> bool {
    let in_package = symbol
        .strip_prefix(text(file, PACKAGE_OF_FILE))
        .and_then(|rest| rest.strip_prefix('.'));
    in_package.is_some_and(|path| holds(Kind::File, file, path))
}

fn holds(kind: Kind, descriptor: &[u8], path: &str) -> bool {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    embedded(descriptor).any(|(number, inner)| {
        kind.within(number).is_some_and(|kind| {
            text(inner, NAME) == first && rest.is_none_or(|rest| holds(kind, inner, rest))
        })
    })
}

fn text(descriptor: &[u8], number: u32) -> &str {
    let field = embedded(descriptor).find(|(found, _)| *found == number);
    field.map_or("", |(_, bytes)| {
        std::str::from_utf8(bytes).unwrap_or_default()
    })
}

/// Fields of a message that hold texts or messages, in the order of the bytes; ends where they make no sense.
fn embedded(mut message: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    iter::from_fn(move || {
        while !message.is_empty() {
            let (number, kind) = decode_key(&mut message).ok()?;
            let length = match kind {
                WireType::Varint => {
                    decode_varint(&mut message).ok()?;
                    continue;
                }
                WireType::ThirtyTwoBit => 4,
                WireType::SixtyFourBit => 8,
                WireType::LengthDelimited => {
                    usize::try_from(decode_varint(&mut message).ok()?).ok()?
                }
                WireType::StartGroup | WireType::EndGroup => return None,
            };
            let bytes = message.get(..length)?;
            message.advance(length);
            if kind == WireType::LengthDelimited {
                return Some((number, bytes));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(symbol: &str) -> Option<String> {
        let found = files().find(|file| declares(file, symbol))?;
        Some(text(found, NAME).to_owned())
    }

    #[test]
    fn every_kind_of_name_leads_to_the_file_that_declares_it() {
        let ours = Some("spotter/v1/agent.proto");
        let cases = [
            ("spotter.v1.Agent", ours),
            ("spotter.v1.Agent.Configure", ours),
            ("spotter.v1.ConfigureRequest", ours),
            ("spotter.v1.ConfigureRequest.run", ours),
            ("spotter.v1.Agent.Nothing", None),
            ("spotter.v1", None),
            ("Agent", None),
            ("", None),
        ];
        for (symbol, expected) in cases {
            assert_eq!(file_of(symbol).as_deref(), expected, "{symbol}");
        }
        assert!(file_of("grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING").is_some());
        assert_ne!(
            file_of("grpc.reflection.v1.ServerReflection"),
            file_of("grpc.reflection.v1alpha.ServerReflection"),
            "one package's name begins the other's"
        );
    }

    #[test]
    fn every_service_is_listed_once() {
        let mut listed: Vec<_> = services().collect();
        listed.sort();
        let expected = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "spotter.v1.Agent",
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn a_file_is_handed_out_by_its_name_as_it_was_compiled() {
        let by_name = MessageRequest::FileByFilename("spotter/v1/agent.proto".into());
        let Ok(MessageResponse::FileDescriptorResponse(answer)) = answer(Some(&by_name)) else {
            panic!("a file");
        };
        let [file] = answer.file_descriptor_proto.as_slice() else {
            panic!("one file");
        };
        assert!(file.len() > 1000 && text(file, PACKAGE_OF_FILE) == "spotter.v1");
    }

    #[test]
    fn what_is_not_there_and_what_makes_no_sense_is_refused() {
        let unknown = MessageRequest::FileContainingSymbol("no.such.Thing".into());
        let code = |asked: Option<&MessageRequest>| answer(asked).unwrap_err().code();
        assert_eq!(code(Some(&unknown)), tonic::Code::NotFound);
        assert_eq!(code(None), tonic::Code::InvalidArgument);
        for broken in [&[0x0a, 0x7f][..], &[0x0b], &[0xff; 12], &[0x09, 1]] {
            assert_eq!(embedded(broken).count(), 0, "{broken:?}");
        }
    }
}
