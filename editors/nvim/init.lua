if vim.fn.has('nvim-0.12') == 0 then
  vim.notify('codellama needs Neovim 0.12: its suggestions are left out', vim.log.levels.WARN)
else
  vim.lsp.config('codellama', {
    cmd = { 'codellama', 'lsp' },
    filetypes = { 'python', 'javascript', 'javascriptreact', 'typescript', 'typescriptreact', 'go', 'rust' },
    root_markers = { '.git' },
  })
  vim.lsp.enable('codellama')
  vim.lsp.inline_completion.enable()

  vim.keymap.set('i', '<Tab>', function()
    if not vim.lsp.inline_completion.get() then
      return '<Tab>'
    end
  end, { expr = true, desc = 'Accept the suggestion' })

  -- :Codellama why, :Codellama toggle, :Codellama snooze, :Codellama ask where is X decided?
  vim.api.nvim_create_user_command('Codellama', function(opts)
    local client = vim.lsp.get_clients({ name = 'codellama' })[1]
    if not client then
      vim.notify('codellama is not attached: open a file of a project first', vim.log.levels.WARN)
      return
    end
    local command = table.remove(opts.fargs, 1)
    local argument = { uri = vim.uri_from_bufnr(0), question = table.concat(opts.fargs, ' ') }
    client:exec_cmd({ title = command, command = 'codellama.' .. command, arguments = { argument } }, {}, function(err, result)
      local text = err and err.message or result and (result.markdown or result.answer) or vim.inspect(result)
      vim.lsp.util.open_floating_preview(vim.split(text, '\n'), 'markdown', { wrap = true })
    end)
  end, { nargs = '+', desc = 'Ask codellama' })
end
