"""The compiled frame codec; its interface is the pure twin's, to the letter."""

from gateway.protocol._frames_py import FrameDecoder as FrameDecoder
from gateway.protocol._frames_py import Utf8Validator as Utf8Validator
from gateway.protocol._frames_py import encode_pieces as encode_pieces
from gateway.protocol._frames_py import message_ends as message_ends
