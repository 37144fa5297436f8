-- Loaded beside editors/nvim/init.lua by test_neovim.py: times what a person would see.
local ghost = { typed = nil, shown = nil }
_G.ghost = ghost

vim.on_key(function(_, typed)
  if typed ~= '' then
    ghost.typed, ghost.shown = vim.uv.hrtime(), nil
  end
end)

-- The extmarks of the suggestion, as Neovim draws them.
function ghost.marks()
  local space = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  return space and vim.api.nvim_buf_get_extmarks(0, space, 0, -1, { details = true }) or {}
end

vim.uv.new_timer():start(0, 5, vim.schedule_wrap(function()
  if ghost.typed and not ghost.shown and #ghost.marks() > 0 then
    ghost.shown = vim.uv.hrtime()
  end
end))

-- The lines of each floating window.
local function floats()
  local found = {}
  for _, window in ipairs(vim.api.nvim_list_wins()) do
    if vim.api.nvim_win_get_config(window).relative ~= '' then
      table.insert(found, vim.api.nvim_buf_get_lines(vim.api.nvim_win_get_buf(window), 0, -1, false))
    end
  end
  return found
end

-- Everything the test asks for, as JSON.
function ghost.state()
  return vim.json.encode({
    mode = vim.api.nvim_get_mode().mode,
    clients = #vim.lsp.get_clients({ name = 'codellama', bufnr = 0 }),
    marks = ghost.marks(),
    floats = floats(),
    lines = vim.api.nvim_buf_get_lines(0, 0, -1, false),
    ms = ghost.shown and (ghost.shown - ghost.typed) / 1e6 or vim.NIL,
  })
end
