let g:llama_config = {
    \ 'endpoint_fim': '@URL@/infill',
    \ 'endpoint_inst': '@URL@/v1/chat/completions',
    \ 'model_fim': '@MODEL@',
    \ 'model_inst': '@MODEL@',
    \ 'api_key': '@KEY@',
    \ }
