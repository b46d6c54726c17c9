from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message

DESCRIPTOR: _descriptor.FileDescriptor

class InferenceCallbackRequest(_message.Message):
    __slots__ = ("analysis_result", "callback_type", "result_type", "task_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_TYPE_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_RESULT_FIELD_NUMBER: _ClassVar[int]
    CALLBACK_TYPE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    result_type: str
    analysis_result: str
    callback_type: str
    def __init__(self, task_id: str | None = ..., result_type: str | None = ..., analysis_result: str | None = ..., callback_type: str | None = ...) -> None: ...

class InferenceCallbackResponse(_message.Message):
    __slots__ = ("code", "msg")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    code: int
    msg: str
    def __init__(self, code: int | None = ..., msg: str | None = ...) -> None: ...
