require('minuet').setup {
  provider = 'openai_fim_compatible',
  n_completions = 1,
  context_window = 16000,
  request_timeout = 10,
  provider_options = {
    openai_fim_compatible = {
      name = 'v4-run',
      end_point = '@URL@/v1/completions',
      model = '@MODEL@',
      api_key = function() return '@KEY@' end,
      stream = true,
      optional = { max_tokens = 56, stop = { '\n\n' } },
    },
  },
}
